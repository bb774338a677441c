"""Axes and cells: the factors that are varied, and one point of the matrix they span."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftdoctor.errors import UsageError
from ftdoctor.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Axis:
    """One factor that is varied, with its values in order; the first value is the default."""

    name: str
    values: tuple[str, ...]
    summary: str
    libraries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Value to the distributions that it needs."""
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Value to the only devices on which it exists; a value that is not named exists on all."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Value to the sentence that explains its limits."""

    @property
    def default(self) -> str:
        """The value that a probe takes when nothing else is asked."""
        return self.values[0]


@dataclass(frozen=True, order=True)
class Cell:
    """One value for each axis that a probe uses, sorted by axis; equal cells are equal keys."""

    items: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Cell:
        """Build a cell from a mapping of axis to value."""
        return cls(tuple(sorted(values.items())))

    def __getitem__(self, axis: str) -> str:
        return dict(self.items)[axis]

    def __contains__(self, axis: object) -> bool:
        return any(name == axis for name, _ in self.items)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items)

    def __str__(self) -> str:
        return " ".join(f"{axis}={value}" for axis, value in self.items)

    def get(self, axis: str, default: str = "") -> str:
        """Return the value of an axis, or `default` where the cell does not have that axis."""
        return dict(self.items).get(axis, default)

    def asdict(self) -> dict[str, str]:
        """Return the cell as a mapping of axis to value."""
        return dict(self.items)

    def matches(self, wanted: Mapping[str, Iterable[str]]) -> bool:
        """Say whether every axis of `wanted` that this cell has carries one of the wanted values."""
        return all(self[axis] in values for axis, values in wanted.items() if axis in self)


def parse_selection(arguments: Iterable[str], axes: Mapping[str, Axis]) -> dict[str, tuple[str, ...]]:
    """Read `axis=value[,value]` arguments of the command line.

    Raises:
        UsageError: the form is wrong, or the axis or the value does not exist.
    """
    selection: dict[str, tuple[str, ...]] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not text:
            raise UsageError(f"--cell {argument!r} is not of the form axis=value; see `ftdoctor list --axes`.")
        if name not in axes:
            raise UsageError(f"There is no axis {name!r}{nearest(name, axes)}; see `ftdoctor list --axes`.")
        values = tuple(text.split(","))
        for value in values:
            if value not in axes[name].values:
                known = ", ".join(axes[name].values)
                raise UsageError(f"Axis {name!r} has no value {value!r}; it has {known}.")
        selection[name] = selection.get(name, ()) + values
    return selection
