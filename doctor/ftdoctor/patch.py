"""Sabotage: how a fault changes the installed stack inside the one process that is meant to suffer from it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Patch:
    """Changes attributes, environment and import paths of this process; nothing is ever put back.

    A fault runs in a process of its own that ends with the probe, so there is nothing to restore.

    Attributes:
        folder: an empty folder that is removed with the process.
        cell: the cell in which the fault is tried, axis to value.
    """

    def __init__(self, folder: Path, cell: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.cell = cell or {}

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set attribute `name` of a module, class or object; it must exist, so that a fault cannot go stale."""
        getattr(owner, name)
        setattr(owner, name, value)

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace a function or method by one that calls `around(original, *args, **kwargs)`.

        Class methods and static methods stay what they are; for a method `args[0]` is the instance or class.
        """
        static = inspect.getattr_static(owner, name)
        original = static.__func__ if isinstance(static, (classmethod, staticmethod)) else getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        if isinstance(static, (classmethod, staticmethod)):
            setattr(owner, name, type(static)(wrapper))
        else:
            setattr(owner, name, wrapper)

    def environ(self, name: str, value: str) -> None:
        """Set an environment variable."""
        os.environ[name] = value

    def shadow(self, module: str, source: str) -> None:
        """Put a module of this name in front of everything on the import path, as a stray file would be."""
        target = self.folder / "shadow" / (module.replace(".", "/") + ".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
        sys.path.insert(0, str(self.folder / "shadow"))
