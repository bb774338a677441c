"""The parts of a fine-tuning script that go wrong silently, done right; each is usable alone in a plain Trainer.

Nothing of the stack is imported before one of these names is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftdoctor.training.batch_plan import BatchPlan, train_within_memory
    from ftdoctor.training.loader import Loaded, LoadRecord, load_for_training
    from ftdoctor.training.memory import StepMemory, step_memory

__all__ = [
    "BatchPlan",
    "LoadRecord",
    "Loaded",
    "StepMemory",
    "load_for_training",
    "step_memory",
    "train_within_memory",
]

_HOMES = {
    "batch_plan": ("BatchPlan", "train_within_memory"),
    "loader": ("LoadRecord", "Loaded", "load_for_training"),
    "memory": ("StepMemory", "step_memory"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
