"""What a micro-batch changes beside the gradient: remembered before it, so that it can be undone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scope:
    """The parts of a model in training that a micro-batch may change; found once, for it takes a walk over all modules.

    Attributes:
        parameters: all that may have a gradient: those that are trained, and those of the optimizer.
        statistics: floating buffers that a checkpoint would hold: running means and the like, which a forward moves.
        devices: accelerators on which random numbers may be drawn.
    """

    parameters: tuple[Any, ...]
    statistics: tuple[Any, ...]
    devices: tuple[Any, ...]

    @classmethod
    def of(cls, trainer: Any) -> Scope:
        """Walk over a trainer's model."""
        owned = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        devices = {parameter.device for parameter in trainer.model.parameters()} | {trainer.args.device}
        statistics = [
            buffer
            for module in trainer.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set
        ]
        return cls(
            parameters=tuple({id(parameter): parameter for parameter in (*owned, *trained)}.values()),
            statistics=tuple(statistics),
            devices=tuple(sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)),
        )


class Before:
    """The state of a trainer before a micro-batch: random numbers, running statistics, and what TRL keeps for its log.

    Remembering it copies a few kilobytes and never waits for the device.

    Args:
        trainer: a `Trainer`; TRL's own keep their metrics in lists that a step appends to.
        scope: the parts of its model that may change.
    """

    def __init__(self, trainer: Any, scope: Scope) -> None:
        import numpy
        import torch

        self._scope = scope
        self._python = random.getstate()
        self._numpy = numpy.random.get_state()
        self._cpu = torch.get_rng_state()
        self._devices = [_generator(device).get_rng_state(*_which(device)) for device in scope.devices]
        self._statistics = [buffer.clone() for buffer in scope.statistics]
        self._tokens = getattr(trainer, "_total_train_tokens", None)
        self._lengths = {key: len(values) for key, values in _metrics(trainer).items()}

    def restore(self, trainer: Any) -> None:
        """Put all of it back."""
        import numpy
        import torch

        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._scope.devices, self._devices, strict=True):
            _generator(device).set_rng_state(state, *_which(device))
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


def _generator(device: Any) -> Any:
    import torch

    return torch.get_device_module(device)


def _which(device: Any) -> tuple[Any, ...]:
    """Return the argument that names the device; MPS has only one."""
    return () if device.type == "mps" else (device,)
