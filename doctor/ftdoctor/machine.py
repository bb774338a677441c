"""What this machine is: processor, memory, disk, containers, GPUs; found without importing torch."""

from __future__ import annotations

import contextlib
import importlib.metadata as metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1024**3


def examine() -> dict[str, Any]:
    """Return the facts of this machine as plain data; sizes in bytes."""
    devices, note = gpus()
    return {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor(),
        "cpu_flags": cpu_flags(),
        "cores": cores(),
        "memory": memory(),
        "memory_limit": memory_limit(),
        "disk_free": shutil.disk_usage(tempfile.gettempdir()).free,
        "container": container(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "gpus": devices,
        "gpu_note": note,
    }


def stack(order: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each distribution of `order` that is installed, from metadata alone."""
    found = {}
    for name in order:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def dependencies(order: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of everything on which the stack depends, by name, the stack itself left out.

    Other distributions of the environment are not named: they are nobody's business.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting = [*order]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for line in distribution.requires or ():
            with contextlib.suppress(InvalidRequirement):
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                    waiting.append(needed.name)
    return {name: found[name] for name in sorted(found) if name not in order}


def environment(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return the environment variables whose names begin like these: those that steer the stack."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}


def headline(facts: Mapping[str, Any]) -> str:
    """Return the machine in a few words: `Linux x86_64 · 2 cores · no GPU ...`."""
    seen = facts["gpus"]
    gpu = f"{len(seen)} x {seen[0]['name']}" if seen else "no GPU: nothing here certifies a GPU"
    cores_text = "1 core" if facts["cores"] == 1 else f"{facts['cores']} cores"
    return f"{facts['os'].split()[0]} {facts['machine']} · {cores_text} · {gpu}"


def describe(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the machine as labels and texts for a person."""
    memory_facts, limit, box = facts["memory"], facts["memory_limit"], facts["container"]
    flags = " ".join(facts["cpu_flags"])
    rows = [
        ("python", f"{facts['implementation']} {facts['python']}, {facts['executable']}"),
        ("system", f"{facts['os']} {facts['machine']}" + (f" in {box}" if box else "")),
        ("processor", f"{facts['processor']}, {facts['cores']} usable cores" + (f", {flags}" if flags else "")),
        ("memory", f"{memory_facts['total'] / GIB:.1f} GiB, {memory_facts['available'] / GIB:.1f} GiB available"),
        ("limit", f"{limit / GIB:.1f} GiB for this container" if limit else "no container limit on memory"),
        ("disk", f"{facts['disk_free'] / GIB:.1f} GiB free for temporary files"),
    ]
    for i, gpu in enumerate(facts["gpus"]):
        text = (
            f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB, capability {gpu['capability']}, "
            f"driver {gpu['driver']} (CUDA up to {gpu['cuda_driver']})"
        )
        rows.append((f"gpu {i}", text))
    return rows if facts["gpus"] else [*rows, ("gpu", f"none: {facts['gpu_note']}")]


def processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the vector extensions that change which kernels the libraries choose."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                present = set(line.split())
                return [flag for flag in wanted if flag in present]
    return []


def cores() -> int:
    """Return the number of cores that this process may use, container limits included."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        usable = min(usable, max(1, int(quota) // int(period)))
    return usable


def memory() -> dict[str, int]:
    """Return total and available bytes of main memory, 0 where the system does not say."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return {"total": sizes.get("MemTotal", 0), "available": sizes.get("MemAvailable", 0)}
    with contextlib.suppress(ValueError, OSError, AttributeError):
        page = os.sysconf("SC_PAGE_SIZE")
        return {"total": page * os.sysconf("SC_PHYS_PAGES"), "available": 0}
    return {"total": 0, "available": 0}


def memory_limit() -> int:
    """Return the container's memory limit in bytes, 0 where there is none."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(file).read_text())
            if limit < 1 << 60:
                return limit
    return 0


def container() -> str:
    """Return the kind of container this process runs in, or an empty string."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        return "apptainer"
    return ""


def gpus() -> tuple[list[dict[str, Any]], str]:
    """Ask NVML for the GPUs, so that a torch that is broken cannot hide them.

    Returns:
        One mapping a GPU (name, memory and memory_free in bytes, capability like "9.0", driver, and
        cuda_driver: the newest CUDA runtime that the driver takes, like "13.0"), and why the list is empty.
    """
    try:
        import pynvml
    except ImportError:
        return [], "nvidia-ml-py is not installed, so GPUs were not looked for"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"no NVIDIA driver answers ({error})"
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            size = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                {
                    "name": _text(pynvml.nvmlDeviceGetName(handle)),
                    "memory": int(size.total),
                    "memory_free": int(size.free),
                    "capability": f"{major}.{minor}",
                    "driver": driver,
                    "cuda_driver": f"{cuda // 1000}.{cuda % 1000 // 10}",
                }
            )
    except pynvml.NVMLError as error:
        return [], f"the NVIDIA driver answers with an error ({error})"
    else:
        return found, "" if found else "the NVIDIA driver sees no GPU"
    finally:
        pynvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
