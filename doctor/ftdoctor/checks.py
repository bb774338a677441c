"""The recorder that a probe measures with: every comparison becomes evidence, whatever it says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from ftdoctor.results import CheckRecord, Level
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.results import Frame

VALUE_LIMIT = 400


class SkipCell(Exception):  # noqa: N818 - it is not an error
    """Raised by `check.skip`: the promise cannot be put to the test here."""


class Check:
    """Records measured against expected; a check that does not hold need not end the probe.

    All methods take a `name` that is unique in the probe (faults name the checks that must catch them), and:

    - `why`: where the expectation or the tolerance comes from,
    - `level`: what it means when the check does not hold (`Level.FAIL` or `Level.WARN`),
    - `owner`: the function or class whose promise is measured, so that a finding can name its line.

    Each returns whether the check holds.

    Args:
        sink: is called with each record as soon as it is made.
        frame_of: returns the line of an `owner`, or None.
    """

    def __init__(
        self,
        sink: Callable[[CheckRecord], None] = lambda _: None,
        frame_of: Callable[[Any], Frame | None] = lambda _: None,
    ) -> None:
        self.records: list[CheckRecord] = []
        self._sink = sink
        self._frame_of = frame_of

    def that(
        self,
        name: str,
        condition: bool,
        measured: Any,
        expected: Any,
        *,
        why: str = "",
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> bool:
        """Record a condition that the probe has computed itself, with what was measured and expected."""
        return self._record(name, bool(condition), measured, expected, "", why, level, owner)

    def equal(
        self,
        name: str,
        measured: Any,
        expected: Any,
        *,
        why: str = "",
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> bool:
        """Record that two plain values are equal."""
        return self._record(name, bool(measured == expected), measured, expected, "", why, level, owner)

    def close(
        self,
        name: str,
        measured: Any,
        expected: Any,
        *,
        rtol: float = 0.0,
        atol: float = 0.0,
        why: str,
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> bool:
        """Record that |measured - expected| <= atol + rtol * |expected| everywhere.

        Takes numbers, nested lists of numbers, or tensors of equal shape; they are compared in float64. What is
        not finite on both sides is not close.
        """
        a, b = _numbers(measured), _numbers(expected)
        tolerance = f"atol={atol:g} rtol={rtol:g}"
        if len(a) != len(b):
            return self._record(name, False, f"{len(a)} values", f"{len(b)} values", tolerance, why, level, owner)
        worst, where, ok = 0.0, 0, True
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            excess = abs(x - y) - (atol + rtol * abs(y))
            if not math.isfinite(x) or not math.isfinite(y):
                worst, where, ok = math.inf, i, False
                break
            if abs(x - y) > worst:
                worst, where = abs(x - y), i
            ok = ok and excess <= 0
        if len(a) == 1:
            return self._record(name, ok, a[0], b[0], tolerance, why, level, owner)
        shown = f"largest difference {worst:.3g} of {len(a)} values"
        if not ok:
            shown += f" (at {where}: {a[where]:.6g} against {b[where]:.6g})"
        return self._record(name, ok, shown, "the same values", tolerance, why, level, owner)

    def at_most(
        self,
        name: str,
        measured: float,
        bound: float,
        *,
        why: str,
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> bool:
        """Record that a number is finite and not above a bound."""
        ok = math.isfinite(measured) and measured <= bound
        return self._record(name, ok, float(measured), f"at most {bound:.6g}", "", why, level, owner)

    def at_least(
        self,
        name: str,
        measured: float,
        bound: float,
        *,
        why: str,
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> bool:
        """Record that a number is finite and not below a bound."""
        ok = math.isfinite(measured) and measured >= bound
        return self._record(name, ok, float(measured), f"at least {bound:.6g}", "", why, level, owner)

    def finite(self, name: str, value: Any, *, why: str = "", level: Level = Level.FAIL, owner: Any = None) -> bool:
        """Record that every number in a value (number, nested list, tensor) is finite."""
        numbers = _numbers(value)
        bad = sum(not math.isfinite(x) for x in numbers)
        measured = f"{bad} of {len(numbers)} values are not finite"
        return self._record(name, bad == 0, measured, "all finite", "", why, level, owner)

    def raises(
        self,
        name: str,
        kinds: type[BaseException] | tuple[type[BaseException], ...],
        call: Callable[[], Any],
        *,
        why: str = "",
        level: Level = Level.FAIL,
        owner: Any = None,
    ) -> BaseException | None:
        """Record that a call raises one of these exception classes (or a subclass); return what it raised."""
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        expected = " or ".join(k.__name__ for k in wanted)
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001 - what it raised is what is measured
            self._record(name, isinstance(error, wanted), type(error).__name__, expected, "", why, level, owner)
            return error
        self._record(name, False, f"returned {value!r}", expected, "", why, level, owner)
        return None

    def note(self, name: str, value: Any) -> None:
        """Keep a value as evidence without judging it."""
        self._record(name, True, value, "", "", "", Level.NOTE, None)

    def skip(self, reason: str) -> NoReturn:
        """End the probe: its promise cannot be put to the test here, for this reason."""
        raise SkipCell(reason)

    def _record(
        self,
        name: str,
        ok: bool,
        measured: Any,
        expected: Any,
        tolerance: str,
        why: str,
        level: Level,
        owner: Any,
    ) -> bool:
        record = CheckRecord(
            name=name,
            ok=ok,
            measured=_show(measured),
            expected=_show(expected) if expected != "" else "",
            tolerance=tolerance,
            why=why,
            level=level,
            owner=self._frame_of(owner) if owner is not None else None,
        )
        self.records.append(record)
        self._sink(record)
        return ok


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return shorten(value if isinstance(value, str) else repr(value), VALUE_LIMIT)


def _numbers(value: Any) -> list[float]:
    """Flatten numbers, nested sequences and tensors (by their own methods: this module knows no torch)."""
    if hasattr(value, "detach"):
        value = value.detach().double().flatten().tolist()
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [float(value)]
