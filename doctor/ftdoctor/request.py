"""What is to be examined and how: as it was asked, and with everything decided that needs no cell to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.config import Accepted
    from ftdoctor.probe import Probe
    from ftdoctor.runner.journal import Journal
    from ftdoctor.runner.plan import Planned


@dataclass(frozen=True)
class Request:
    """What is to be examined and how."""

    probes: Mapping[str, Probe]
    profile: str = "default"
    selection: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: str = ""
    """Local folder of the user's model, or empty."""
    trust_remote_code: bool = False
    jobs: int = 0
    """Cells at a time; 0 for one per core, sixteen at most. Each GPU is used by one cell at a time."""
    timeout: float = 0.0
    """Seconds a cell may take; 0 for the default."""
    expect: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    accept: Sequence[Accepted] = ()
    resume: Journal | None = None


@dataclass(frozen=True)
class Prepared:
    """A request with everything decided that needs no cell to run."""

    request: Request
    machine: Mapping[str, Any]
    stack: Mapping[str, str]
    planned: Sequence[Planned]
    jobs: int
    journal: Journal | None = None
    """Where results are kept as they arrive; None for a run that nothing is kept of."""
    notes: tuple[str, ...] = ()

    @property
    def to_run(self) -> list[Planned]:
        """The cells that can run here."""
        return [p for p in self.planned if not p.skip]
