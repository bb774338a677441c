"""Tensors of a model in training as evidence: copies, digests, gradients, and their names in a few words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import rounding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ftdoctor.bench import Bench

SHOWN = 3
TINY = 1e-300


def some(names: Iterable[str]) -> str:
    """Return how many names there are and the first three in alphabetical order, or `none`."""
    found = sorted(names)
    return f"{len(found)}: {', '.join(found[:SHOWN])}" if found else "none"


def frozen_digests(model: Any) -> dict[str, str]:
    """Return name to a digest of the bytes of all that a checkpoint would hold and that is not trained.

    A tied weight has two names in a checkpoint; it is trained if either is.
    """
    import torch

    trained = {p.data_ptr() for p in model.parameters() if p.requires_grad}
    return {
        name: hashlib.blake2b(value.detach().reshape(-1).cpu().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
        if torch.is_tensor(value) and value.data_ptr() not in trained
    }


def gradients(trainer: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Return name to the float64 gradient of each trained tensor after one training step's backward pass.

    No optimizer step is taken, so the weights stay as they are.
    """
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, dict(batch))
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    found = {n: p.grad.detach().double().clone() for n, p in trained.items() if p.grad is not None}
    trainer.model.zero_grad()
    return found


def gradient_bound(bench: Bench, trainer: Any) -> tuple[float, str]:
    """Return the difference, relative to its norm, that a repeated gradient may have on this device, and why."""
    if bench.device == "cpu":
        return 0.0, "same weights, same batch: one thread on a CPU repeats bit for bit"
    return rounding.relative(trainer.model, rounding.coarsest(bench, trainer.model))


def differing(measured: dict[str, Any], expected: dict[str, Any], bound: float) -> tuple[list[str], str]:
    """Return the names of gradients that differ by more than `bound` of their norm, and that in words."""
    wrong = [n for n, g in expected.items() if not _error(measured.get(n), g) <= bound]
    shares = sorted(_norm(measured.get(n)) / max(_norm(expected[n]), TINY) for n in wrong)
    words = f"; their norms are {shares[0]:.3g} to {shares[-1]:.3g} of the true ones" if shares else ""
    return wrong, f"{len(wrong)} of {len(expected)} tensors differ{words}"


def _error(measured: Any, expected: Any) -> float:
    return float("inf") if measured is None else _norm(measured - expected) / max(_norm(expected), TINY)


def _norm(value: Any) -> float:
    return 0.0 if value is None else float(value.norm())
