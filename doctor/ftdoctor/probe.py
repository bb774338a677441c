"""A probe: one function that tests one promise of the installed stack in one cell, with its faults beside it."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftdoctor.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ftdoctor.bench import Bench
    from ftdoctor.cells import Axis
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

AREAS = ("environment", "loading", "masking", "generation", "numerics", "training", "components")
RAISES = "raises "
"""In `catches`, `raises RuntimeError` stands for the probe ending with that exception."""


@dataclass(frozen=True)
class Fault:
    """A deliberate defect put into the stack, which the probe beside it must catch."""

    name: str
    apply: Callable[[Patch], None]
    catches: tuple[str, ...]
    """The checks that must not hold under this fault."""
    cell: Mapping[str, str] = field(default_factory=dict)
    """The axis values in which it is tried; the defaults for the rest."""


@dataclass(frozen=True)
class Probe:
    """One promise: what it needs, the axes over which it is put to the test, and its faults."""

    name: str
    """The id, for ever: the function's name with dashes."""
    function: Callable[[Bench, Check], None]
    module: str
    area: str
    needs: tuple[str, ...] = ()
    """Distributions without which the promise cannot be put to the test."""
    axes: tuple[str, ...] = ()
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Axis to the values for which the promise makes sense, where that is not all of them."""
    references: tuple[str, ...] = ()
    fresh: bool = False
    """Whether it must run in a fresh interpreter, as a probe of imports must."""
    timeout: float | None = None
    """Seconds; the run's own limit where it is None."""
    faults: list[Fault] = field(default_factory=list)

    @property
    def document(self) -> str:
        """The documentation: the docstring of the probe's file."""
        return inspect.cleandoc(sys.modules[self.module].__doc__ or "")

    @property
    def promise(self) -> str:
        """The first sentence of the documentation."""
        return self.document.split("\n\n", 1)[0].replace("\n", " ")

    def default(self, axis: Axis) -> str:
        """Return the first value of an axis for which the promise makes sense."""
        sensible = self.only.get(axis.name, axis.values)
        return next(value for value in axis.values if value in sensible)

    def section(self, heading: str) -> str:
        """Return the paragraph of the documentation that starts with `heading:`, without the heading."""
        for paragraph in self.document.split("\n\n"):
            if paragraph.startswith(f"{heading}:"):
                return " ".join(paragraph[len(heading) + 1 :].split())
        return ""

    def fault(
        self, name: str, *, catches: tuple[str, ...], cell: Mapping[str, str] | None = None
    ) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
        """Declare a fault; the decorated function puts it into the stack.

        Args:
            name: what is wrong with the stack, as a sentence without a full stop.
            catches: the checks that must not hold under this fault; `raises X` for an exception that ends
                the probe.
            cell: the axis values in which it is tried, where the defaults don't show it.
        """

        def declare(function: Callable[[Patch], None]) -> Callable[[Patch], None]:
            if any(f.name == name for f in self.faults):
                raise ProbeError(f"Probe {self.name} has two faults named {name!r}; give each its own name.")
            self.faults.append(Fault(name=name, apply=function, catches=catches, cell=cell or {}))
            return function

        return declare

    def find_fault(self, name: str) -> Fault:
        """Return the fault of this name."""
        for fault in self.faults:
            if fault.name == name:
                return fault
        raise ProbeError(f"Probe {self.name} has no fault {name!r}; see `ftdoctor explain {self.name}`.")


def probe(
    *,
    area: str,
    needs: tuple[str, ...] = (),
    axes: tuple[str, ...] = (),
    only: Mapping[str, tuple[str, ...]] | None = None,
    references: tuple[str, ...] = (),
    fresh: bool = False,
    timeout: float | None = None,
) -> Callable[[Callable[[Bench, Check], None]], Probe]:
    """Make a probe of a function that takes a bench and a check.

    The function's name is the probe's id (underscores become dashes) and the name of its file; the file's
    docstring is its documentation: the promise in one sentence, then paragraphs `Why:` and `Cure:`.

    Raises:
        ProbeError: the area does not exist, or `only` names an axis that the probe does not have.
    """
    if area not in AREAS:
        raise ProbeError(f"There is no area {area!r}; the areas are {', '.join(AREAS)}.")
    for axis in only or {}:
        if axis not in axes:
            raise ProbeError(f"`only` names axis {axis!r}, which is not among the probe's axes {axes}.")

    def make(function: Callable[[Bench, Check], None]) -> Probe:
        return Probe(
            name=function.__name__.replace("_", "-"),
            function=function,
            module=function.__module__,
            area=area,
            needs=needs,
            axes=axes,
            only=only or {},
            references=references,
            fresh=fresh,
            timeout=timeout,
        )

    return make
