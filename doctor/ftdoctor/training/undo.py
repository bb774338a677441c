"""What a micro-batch changes beside the gradient: remembered before it, so that it can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftdoctor.training import rng


@dataclass(frozen=True)
class Scope:
    """The parts of a model in training that a micro-batch may change; found once, for it takes a walk over all modules.

    Attributes:
        parameters: all that may have a gradient: those that are trained, and those of the optimizer.
        statistics: floating buffers that a checkpoint would hold: running means and the like, which a forward moves.
    """

    parameters: tuple[Any, ...]
    statistics: tuple[Any, ...]

    @classmethod
    def of(cls, trainer: Any) -> Scope:
        """Walk over a trainer's model."""
        owned = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        statistics = [
            buffer
            for module in trainer.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set
        ]
        return cls(
            parameters=tuple({id(parameter): parameter for parameter in (*owned, *trained)}.values()),
            statistics=tuple(statistics),
        )


class Before:
    """The state of a trainer before a micro-batch: random numbers, running statistics, and what TRL keeps for its log.

    Remembering it copies a few kilobytes and never waits for the device.

    Args:
        trainer: a `Trainer`; TRL's own keep their metrics in lists that a step appends to.
        scope: the parts of its model that may change.
    """

    def __init__(self, trainer: Any, scope: Scope) -> None:
        self._scope = scope
        self._random = rng.take()
        self._statistics = [buffer.clone() for buffer in scope.statistics]
        self._tokens = getattr(trainer, "_total_train_tokens", None)
        self._lengths = {key: len(values) for key, values in _metrics(trainer).items()}

    def restore(self, trainer: Any) -> None:
        """Put all of it back."""
        import torch

        rng.put_back(self._random)
        with torch.no_grad():
            for buffer, value in zip(self._scope.statistics, self._statistics, strict=True):
                buffer.copy_(value)
        metrics = _metrics(trainer)
        for key in list(metrics):
            if key in self._lengths:
                del metrics[key][self._lengths[key] :]
            else:
                del metrics[key]
        if self._tokens is not None:
            trainer._total_train_tokens = self._tokens
            if "num_tokens" in metrics:  # the one that holds a sum instead of a list
                metrics["num_tokens"] = [self._tokens]


def _metrics(trainer: Any) -> dict[str, list[float]]:
    """Return what TRL's trainers have gathered since the last log; nothing for others."""
    found = getattr(trainer, "_metrics", None)
    return found.get("train", {}) if isinstance(found, dict) else {}
