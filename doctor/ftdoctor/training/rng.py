"""The state of every random number generator that a training step draws from, taken and put back."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RandomState:
    """States of the generators of Python, NumPy, torch on the CPU and on every GPU."""

    python: Any
    numpy: Any
    torch: Any
    cuda: tuple[Any, ...]


def take() -> RandomState:
    """Return the present states. Costs microseconds and synchronises no device."""
    import numpy
    import torch

    return RandomState(
        python=random.getstate(),
        numpy=numpy.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),
    )


def put_back(state: RandomState) -> None:
    """Make every generator go on from `state`."""
    import numpy
    import torch

    random.setstate(state.python)
    numpy.random.set_state(state.numpy)
    torch.set_rng_state(state.torch)
    if state.cuda:
        torch.cuda.set_rng_state_all(list(state.cuda))
