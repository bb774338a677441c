"""What a run was asked to do, in the form in which it travels to the process that examines a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

THRESHOLDS: Mapping[str, float] = {"free_disk_gib": 5.0, "free_memory_gib": 2.0}
"""Below these the environment probes warn; `[tool.ftdoctor.thresholds]` replaces them."""


@dataclass(frozen=True)
class Settings:
    """The part of the configuration that a bench needs."""

    cache: str
    """Folder of this run that all its cells share."""
    model: str = ""
    """Local folder of the user's model; empty for the tiny ones."""
    trust_remote_code: bool = False
    expect: Mapping[str, str] = field(default_factory=dict)
    """Distribution to the version specifier that the user expects."""
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(THRESHOLDS))
    seed: int = 0
