"""The state of every random number generator that a training step draws from, taken and put back."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RandomState:
    """States of the generators of Python, NumPy, torch on the CPU and on every accelerator in use."""

    python: Any
    numpy: Any
    torch: Any
    devices: dict[str, Any]
    """`cuda`, `xpu`: the states of all of them; `mps`: that of the one there is."""


def take() -> RandomState:
    """Return the present states. Costs microseconds and synchronises no device."""
    import numpy
    import torch

    return RandomState(
        python=random.getstate(),
        numpy=numpy.random.get_state(),
        torch=torch.get_rng_state(),
        devices=_devices(torch),
    )


def put_back(state: RandomState) -> None:
    """Make every generator go on from `state`."""
    import numpy
    import torch

    random.setstate(state.python)
    numpy.random.set_state(state.numpy)
    torch.set_rng_state(state.torch)
    for name, states in state.devices.items():
        module = getattr(torch, name)
        if name == "mps":
            module.set_rng_state(states)
        else:
            module.set_rng_state_all(states)


def _devices(torch: Any) -> dict[str, Any]:
    """Return the states of accelerators that have a context; looking must not make one."""
    found: dict[str, Any] = {}
    for name in ("cuda", "xpu"):
        module = getattr(torch, name, None)
        if module is not None and module.is_initialized():
            found[name] = module.get_rng_state_all()
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    return found
