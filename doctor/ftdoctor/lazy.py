"""Packages whose names are imported when they are first asked for, because what is behind them is heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def exports(package: str, homes: Mapping[str, Sequence[str]], names: dict[str, Any]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
        package: its `__name__`.
        homes: module of the package to the names that it gives.
        names: the package's `globals()`, where a name stays once it was asked for.
    """
    home_of = {name: home for home, given in homes.items() for name in given}

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the package's own
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # A name that is also a module's stands for the function, once that module has been imported.
        value = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        names[name] = value
        return value

    return __getattr__
