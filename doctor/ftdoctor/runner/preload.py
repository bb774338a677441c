"""What the fork server imports before the first cell, and whether it may fork afterwards.

This is the one place of the runner that knows torch by name: a process that has opened a CUDA context or run
a multi-threaded operation must not fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def preload(modules: Iterable[str]) -> None:
    """Import modules without touching a tensor.

    A module that cannot be imported is no error of the server: the cells that need it will say so.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(Exception):  # whatever an import raises, the server must live
                importlib.import_module(name)
    if "torch" in sys.modules:
        with contextlib.suppress(AttributeError):
            sys.modules["torch"].set_num_threads(1)
    gc.collect()
    gc.freeze()


def obstacle() -> str:
    """Say why this process must not fork, or return an empty string."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "the imports opened a CUDA context"
    return ""


def canary() -> None:
    """Do in a forked child what deadlocks where forking is not safe: multi-threaded arithmetic."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "ones"):
        torch.set_num_threads(2)
        a = torch.ones(128, 128, requires_grad=True)
        (a @ a).sum().backward()
