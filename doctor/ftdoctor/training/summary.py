"""What happened in a training run, as one JSON document: the truth from which its page is rendered."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.training import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ftdoctor.training.loader import LoadRecord
    from ftdoctor.training.recipe import Recipe

SCHEMA = "ftdoctor.training/1"


@dataclass(frozen=True)
class Curve:
    """One logged value over the optimizer steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def make(
    *,
    recipe: Recipe,
    trainer: Any,
    loaded: LoadRecord,
    counts: Mapping[str, Any],
    told: tuple[str, ...],
    plan: Mapping[str, Any],
    memory: Mapping[str, Any],
    finished: bool,
    seconds: float,
) -> dict[str, Any]:
    """Return the document: plain values alone, numbers that are not finite as their names."""
    history = trainer.state.log_history
    first = trainer.health.first_loss
    document: dict[str, Any] = _plain(
        {
            "schema": SCHEMA,
            "finished": finished,
            "steps": trainer.state.global_step,
            "planned_steps": trainer.state.max_steps,
            "seconds": seconds,
            "recipe": recipe.as_dict(),
            "loading": dataclasses.asdict(loaded),
            "loading_told": str(loaded).splitlines(),
            "data": counts,
            "data_told": told,
            "batch_plan": plan,
            "memory": memory,
            "first_loss": {**dataclasses.asdict(first), "possible": first.possible} if first else None,
            "bad_batches": [dataclasses.asdict(bad) for bad in trainer.guard.bad_batches],
            "curves": [dataclasses.asdict(curve) for curve in curves(history)],
        }
    )
    return document


def curves(history: list[dict[str, Any]]) -> list[Curve]:
    """Return each value that was logged in training over its steps; totals at the end are left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        if "train_runtime" in entry:
            continue
        for name, value in entry.items():
            if name not in ("step", "epoch") and isinstance(value, int | float):
                found.setdefault(name, []).append((entry["step"], value))
    return [Curve(name, *zip(*points, strict=True)) for name, points in found.items()]


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document so that the file is always a complete one."""
    durable.write_json(path, document)


def _plain(value: Any) -> Any:
    """Return what JSON knows; NaN and infinities, which it does not, as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
