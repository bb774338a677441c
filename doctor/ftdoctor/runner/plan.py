"""The plan: which probe runs in which cell, and what cannot run here, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftdoctor.cells import Axis, Cell
from ftdoctor.runner.covering import covering

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ftdoctor.probe import Probe
    from ftdoctor_matrix import Impossible, Profile

DEVICE = "device"
OF_THE_MODEL = ("family", "vocabulary")
"""Axes that a user's own model decides."""


@dataclass(frozen=True)
class Planned:
    """One probe in one cell; with a reason, it cannot run here."""

    probe: str
    cell: Cell
    skip: str = ""


@dataclass(frozen=True)
class Here:
    """What this machine and this installation have, as far as a plan depends on it."""

    devices: Mapping[str, str]
    """Every device of the axis to an empty string, or to the reason for which it is not here."""
    stack: Mapping[str, str]
    """Installed distribution to version."""
    limits: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    """(device, axis, value) that the hardware does not support, to the reason."""

    @classmethod
    def of(cls, machine: Mapping[str, Any], stack: Mapping[str, str]) -> Here:
        """Derive it from the facts of the machine."""
        gpus = machine["gpus"]
        limits = {}
        if gpus and min(float(g["capability"]) for g in gpus) < 8.0:
            why = f"{gpus[0]['name']} (capability {gpus[0]['capability']}) has no bfloat16 arithmetic"
            limits = {("cuda", "dtype", "bfloat16"): why, ("cuda", "mixed_precision", "bf16"): why}
        no_cuda = "" if gpus else f"this machine has no CUDA device: {machine['gpu_note']}"
        return cls({"cpu": "", "cuda": no_cuda}, stack, limits)

    @property
    def best(self) -> str:
        """The device on which a fine-tuning job would run here."""
        return "cuda" if not self.devices["cuda"] else "cpu"


@dataclass(frozen=True)
class Choice:
    """What the user asked to be examined."""

    probes: Mapping[str, Probe]
    profile: Profile
    axes: Mapping[str, Axis]
    impossible: Sequence[Impossible]
    selection: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_model: bool = False


def plan(choice: Choice, here: Here) -> list[Planned]:
    """Return every cell of the choice, those that cannot run here with their reason, in a stable order."""
    planned: list[Planned] = []
    for probe in choice.probes.values():
        if choice.selection and not set(choice.selection) & set(probe.axes):
            continue
        planned += _plan_probe(probe, choice, here)
    return list(dict.fromkeys(planned))


def _plan_probe(probe: Probe, choice: Choice, here: Here) -> Iterator[Planned]:
    missing = [name for name in probe.needs if name not in here.stack]
    if missing:
        yield Planned(probe.name, Cell(), f"{', '.join(missing)} is not installed")
        return
    for device in _devices(probe, choice, here):
        fixed = {DEVICE: device} if DEVICE in probe.axes else {}
        if fixed and here.devices[device]:
            yield Planned(probe.name, Cell.of(fixed), here.devices[device])
            continue
        values, skipped = _values(probe, device, choice, here)
        for axis, value, reason in skipped:
            yield Planned(probe.name, Cell.of({**fixed, axis: value}), reason)
        if all(values.values()):
            for cell in _cells(values, fixed, choice):
                yield Planned(probe.name, cell)


def _devices(probe: Probe, choice: Choice, here: Here) -> list[str]:
    """Return the devices to plan for; one that is not here is planned too, so that it is said."""
    if DEVICE not in probe.axes:
        return [here.best]
    devices = [d for d in _wanted(probe, choice.axes[DEVICE], choice) if d in here.devices]
    if choice.profile.devices == "best" and DEVICE not in choice.selection:
        return [d for d in devices if d == here.best or here.devices[d]]
    return devices


def _wanted(probe: Probe, axis: Axis, choice: Choice) -> tuple[str, ...]:
    """Return the values of an axis for which the probe's promise makes sense and that were asked for."""
    sensible = probe.only.get(axis.name, axis.values)
    asked = choice.selection.get(axis.name, axis.values)
    return tuple(v for v in axis.values if v in sensible and v in asked)


def _values(
    probe: Probe, device: str, choice: Choice, here: Here
) -> tuple[dict[str, list[str]], list[tuple[str, str, str]]]:
    """Return the values of each axis that can be examined on a device, and those that cannot with the reason."""
    values: dict[str, list[str]] = {}
    skipped = []
    for name in probe.axes:
        if name == DEVICE or (choice.own_model and name in OF_THE_MODEL):
            continue
        axis = choice.axes[name]
        values[name] = []
        for value in _wanted(probe, axis, choice):
            reason = _unavailable(axis, value, device, here)
            if reason:
                skipped.append((name, value, reason))
            else:
                values[name].append(value)
    return values, skipped


def why_not(probe: Probe, cell: Cell, axes: Mapping[str, Axis], here: Here) -> str:
    """Return the reason for which one cell of a probe cannot run here, or an empty string."""
    missing = [name for name in probe.needs if name not in here.stack]
    if missing:
        return f"{', '.join(missing)} is not installed"
    device = cell.get(DEVICE, here.best)
    reasons = [here.devices[device]] if DEVICE in cell else []
    reasons += [_unavailable(axes[axis], cell[axis], device, here) for axis in cell if axis != DEVICE]
    return next((reason for reason in reasons if reason), "")


def _unavailable(axis: Axis, value: str, device: str, here: Here) -> str:
    missing = [name for name in axis.libraries.get(value, ()) if name not in here.stack]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if device not in axis.devices.get(value, (device,)):
        return axis.reasons.get(value, f"{axis.name}={value} does not exist on {device}")
    return here.limits.get((device, axis.name, value), "")


def _cells(values: dict[str, list[str]], fixed: dict[str, str], choice: Choice) -> Iterator[Cell]:
    """Return the cells that cover the values as the profile asks, without the impossible ones."""

    def possible(cell: Mapping[str, str]) -> bool:
        return not any(
            set(entry.cell) <= set(cell) and all(cell[a] in v for a, v in entry.cell.items())
            for entry in choice.impossible
        )

    def made(rows: Iterable[dict[str, str]]) -> Iterator[Cell]:
        return (Cell.of({**row, **fixed}) for row in rows if possible({**row, **fixed}))

    profile = choice.profile
    if profile.cells:
        rows = [{a: cell.get(a, v[0]) for a, v in values.items()} for cell in profile.cells]
        yield from made(r for r in rows if all(r[a] in v for a, v in values.items()))
    elif profile.strength == 1:
        yield from made(_one_at_a_time(values, {*profile.vary, *choice.selection}))
    else:
        yield from made(covering(values, profile.strength, lambda row: possible({**row, **fixed})))


def _one_at_a_time(values: dict[str, list[str]], varied: set[str]) -> Iterator[dict[str, str]]:
    base = {axis: options[0] for axis, options in values.items()}
    yield base
    for axis in values:
        if axis in varied:
            yield from ({**base, axis: value} for value in values[axis][1:])
