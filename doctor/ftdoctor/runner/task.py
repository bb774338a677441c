"""A task: one probe in one cell (or one fault of it), as it travels to the process that examines it."""

from __future__ import annotations

from dataclasses import dataclass

from ftdoctor.cells import Cell
from ftdoctor.results import CheckRecord, Curve, LabelMask
from ftdoctor.settings import Settings

KINDS: dict[type, str] = {CheckRecord: "check", Curve: "curve", LabelMask: "label_mask"}
"""Under which name each kind of evidence is sent back."""


@dataclass(frozen=True)
class Limits:
    """What a cell may use before it is ended."""

    seconds: float = 120.0
    memory: int = 4 * 1024**3
    """Bytes of resident memory of the cell and all its children, beyond what it starts with."""
    output: int = 64 * 1024**2
    """Bytes printed."""
    evidence: int = 8 * 1024**2
    """Bytes of checks and verdict."""


@dataclass(frozen=True)
class Task:
    """One probe in one cell."""

    id: int
    module: str
    """Where the probe stands; its function has the name of the module's last part."""
    probe: str
    cell: Cell
    settings: Settings
    limits: Limits
    fault: str = ""
    fresh: bool = False
    accelerated: bool = False
    """Whether it wants an accelerator of its own."""
    gpu: str = ""
    """Value of CUDA_VISIBLE_DEVICES, decided when the task is handed out; empty to leave it alone."""
