"""torch sees every GPU that the driver reports, and was built for them and for this driver.

Why: a torch for the CPU, for another CUDA version or for other GPUs installs without a word. It then says that there is
no GPU, asks for a newer driver, or fails at the first kernel with "no kernel image is available"; and training
on the CPU merely looks slow.

Cure: install the torch that pytorch.org names for the CUDA version in the finding, or a newer driver; look at
CUDA_VISIBLE_DEVICES where torch sees fewer GPUs than there are.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from ftdoctor import machine
from ftdoctor.probe import probe
from ftdoctor.results import Level
from ftdoctor.wording import count

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="environment",
    needs=("torch",),
    references=("pytorch/pytorch#167244",),
)
def gpu_visible(bench: Bench, check: Check) -> None:
    """Compare what NVML reports with what torch sees and was built for."""
    import torch

    if torch.version.hip:
        check.skip("this torch is built for ROCm, and only NVIDIA GPUs can be counted independently of torch")
    gpus = bench.machine["gpus"]
    chosen = _chosen(len(gpus), os.environ.get("CUDA_VISIBLE_DEVICES"))
    seen = torch.cuda.device_count()
    check.note("GPUs", [f"{gpu['name']}, driver {gpu['driver']}" for gpu in gpus] or bench.machine["gpu_note"])
    check.that(
        "torch sees a GPU",
        seen > 0 or chosen == 0,
        f"{count(seen, 'GPU')}, torch built for {_built_for()}",
        count(chosen, "GPU"),
        why="what NVML reports and CUDA_VISIBLE_DEVICES leaves",
        owner=torch.cuda.is_available,
    )
    check.that(
        "number of GPUs",
        seen >= chosen,
        seen,
        chosen,
        why="what NVML reports and CUDA_VISIBLE_DEVICES leaves",
        level=Level.WARN,
        owner=torch.cuda.device_count,
    )
    check.equal(
        "driver",
        [gpu["cuda_driver"] for gpu in gpus[:1] if _major(torch.version.cuda) > _major(gpu["cuda_driver"])],
        [],
        why=f"a driver runs every CUDA runtime of its own major version or an older one; torch has {_built_for()}",
    )
    built = torch.cuda.get_arch_list()
    check.equal(
        "architectures",
        [f"{gpu['name']} ({gpu['capability']})" for gpu in gpus if built and not _runs_on(gpu["capability"], built)],
        [],
        why=f"torch was built for {' '.join(built) or 'no GPU'}: sm_XY runs on X.Y and above within X, compute_XY "
        "(compiled by the driver) on everything from X.Y, and a suffix `a` binds to one capability",
    )


def _built_for() -> str:
    import torch

    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"


def _major(version: str | None) -> int:
    return int(version.split(".")[0]) if version else 0


def _chosen(number: int, visible: str | None) -> int:
    """Return how many GPUs CUDA_VISIBLE_DEVICES leaves: its entries up to the first that does not exist."""
    if visible is None or number == 0:
        return number
    left = 0
    for entry in visible.split(","):
        text = entry.strip()
        if not (text.startswith(("GPU-", "MIG-")) or (text.isdigit() and int(text) < number)):
            break
        left += 1
    return left


def _runs_on(capability: str, built: list[str]) -> bool:
    """Say whether code for one of these architectures runs on a device of this capability."""
    device = tuple(int(part) for part in capability.split("."))
    for name in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name)
        if match is None:
            continue
        kind, suffix = match[1], match[4]
        target = (int(match[2]), int(match[3]))
        if suffix == "a":
            fits = target == device
        else:
            fits = target <= device and ((kind == "compute" and not suffix) or target[0] == device[0])
        if fits:
            return True
    return False


def _pretend(patch: Patch, capability: str, cuda_driver: str, number: int = 1) -> None:
    """Have the driver report GPUs that this machine need not have."""
    gpu: dict[str, Any] = {
        "name": "NVIDIA H200",
        "memory": 150 * machine.GIB,
        "memory_free": 149 * machine.GIB,
        "capability": capability,
        "driver": "580.65.06",
        "cuda_driver": cuda_driver,
    }
    patch.replace(machine, "gpus", lambda: ([gpu] * number, ""))
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)


@gpu_visible.fault("torch was built for the CPU", catches=("torch sees a GPU", "number of GPUs"))
def cpu_build(patch: Patch) -> None:
    """The driver reports a GPU, and torch knows no CUDA."""
    import torch

    _pretend(patch, "9.0", "13.0")
    patch.replace(torch.version, "cuda", None)
    patch.replace(torch.cuda, "device_count", lambda: 0)
    patch.replace(torch.cuda, "get_arch_list", list)


@gpu_visible.fault("torch sees one GPU of eight", catches=("number of GPUs",))
def one_of_eight(patch: Patch) -> None:
    """Seven devices that torch does not find."""
    import torch

    _pretend(patch, "9.0", "13.0", number=8)
    patch.replace(torch.cuda, "device_count", lambda: 1)


@gpu_visible.fault("the driver is older than torch's CUDA", catches=("driver",))
def old_driver(patch: Patch) -> None:
    """torch for CUDA 13 under a driver for CUDA 12."""
    import torch

    _pretend(patch, "9.0", "12.4")
    patch.replace(torch.version, "cuda", "13.0")


@gpu_visible.fault("torch has no code for this GPU", catches=("architectures",))
def other_architecture(patch: Patch) -> None:
    """A new GPU (12.0) and a torch built for older ones, the newest of them bound to Hopper alone."""
    import torch

    _pretend(patch, "12.0", "13.0")
    patch.replace(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "sm_90a", "compute_90a"])
