"""The recorder that a probe measures with: every comparison becomes evidence, whatever it says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ftdoctor.results import Beside, CheckRecord, Curve, LabelMask, Level
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ftdoctor.results import Frame

VALUE_LIMIT = 400
CURVE_LIMIT = 200
MASK_LIMIT = 400
MASK_EDGE = 100
"""Tokens at the end of a long mask that go where a secret stands among them."""


class SkipCell(Exception):  # noqa: N818 - it is not an error
    """Raised by `check.skip`: the promise cannot be put to the test here."""


class Check:
    """Records measured against expected; a check that does not hold need not end the probe.

    All methods take a `name` that is unique in the probe (faults name the checks that must catch them), and some of:

    - `why`: where the expectation or the tolerance comes from,
    - `level`: what it means when the check does not hold (`Level.FAIL` or `Level.WARN`),
    - `owner`: the function or class whose promise is measured, so that a finding can name its line,
    - `beside`: what other ways of doing the same measure (`naive`, `library`): a value, or the exception that
      `attempt` returned. They are judged by the same comparison and recorded; they decide nothing.

    Each returns whether the check holds.

    Args:
        sink: is called with each record, curve and label mask as soon as it is made.
        frame_of: returns the line of an `owner`, or None.
        scrub: takes secrets out of a text, before it is cut.
    """

    def __init__(
        self,
        sink: Callable[[CheckRecord | Curve | LabelMask], None] = lambda _: None,
        frame_of: Callable[[Any], Frame | None] = lambda _: None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.records: list[CheckRecord] = []
        self._sink = sink
        self._frame_of = frame_of
        self._scrub = scrub

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
        return self._record(name, _Verdict(bool(condition), measured, expected), why, level, owner)

    def equal(
        self,
        name: str,
        measured: Any,
        expected: Any,
        *,
        why: str = "",
        level: Level = Level.FAIL,
        owner: Any = None,
        beside: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that two plain values are equal."""

        def judge(value: Any) -> _Verdict:
            return _Verdict(bool(value == expected), value, expected)

        return self._record(name, judge(measured), why, level, owner, self._besides(judge, beside))

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
        beside: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that |measured - expected| <= atol + rtol * |expected| everywhere.

        Takes numbers, nested lists of numbers, or tensors of equal shape; they are compared in float64. What is
        not finite on both sides is not close.
        """

        def judge(value: Any) -> _Verdict:
            return _close(_numbers(value), _numbers(expected), rtol, atol)

        return self._record(name, judge(measured), why, level, owner, self._besides(judge, beside))

    def at_most(
        self,
        name: str,
        measured: float,
        bound: float,
        *,
        why: str,
        level: Level = Level.FAIL,
        owner: Any = None,
        beside: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that a number is finite and not above a bound."""

        def judge(value: float) -> _Verdict:
            ok = math.isfinite(value) and value <= bound
            return _Verdict(ok, float(value), f"at most {bound:.6g}", value=float(value))

        return self._record(name, judge(measured), why, level, owner, self._besides(judge, beside))

    def at_least(
        self,
        name: str,
        measured: float,
        bound: float,
        *,
        why: str,
        level: Level = Level.FAIL,
        owner: Any = None,
        beside: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record that a number is finite and not below a bound."""

        def judge(value: float) -> _Verdict:
            ok = math.isfinite(value) and value >= bound
            return _Verdict(ok, float(value), f"at least {bound:.6g}", value=float(value))

        return self._record(name, judge(measured), why, level, owner, self._besides(judge, beside))

    def finite(self, name: str, value: Any, *, why: str = "", level: Level = Level.FAIL, owner: Any = None) -> bool:
        """Record that every number in a value (number, nested list, tensor) is finite."""
        numbers = _numbers(value)
        bad = sum(not math.isfinite(x) for x in numbers)
        measured = f"{bad} of {len(numbers)} values are not finite"
        return self._record(name, _Verdict(bad == 0, measured, "all finite"), why, level, owner)

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
            self._record(name, _Verdict(isinstance(error, wanted), type(error).__name__, expected), why, level, owner)
            return error
        self._record(name, _Verdict(False, f"returned {value!r}", expected), why, level, owner)
        return None

    def note(self, name: str, value: Any) -> None:
        """Keep a value as evidence without judging it."""
        self._record(name, _Verdict(True, value, ""), "", Level.NOTE, None)

    def curve(self, name: str, steps: Sequence[int], values: Sequence[Any], *, label: str = "", unit: str = "") -> None:
        """Keep values over steps as evidence, for a plot: at most `CURVE_LIMIT`, evenly chosen, the last among them."""
        points = list(zip(steps, values, strict=True))
        last, every = len(points) - 1, -(-len(points) // (CURVE_LIMIT - 1)) or 1
        chosen = [points[i] for i in sorted({*range(0, last, every), last})] if points else []
        kept = [(int(step), _finite(float(f"{float(value):.6g}"))) for step, value in chosen]
        self._sink(Curve(name, tuple(s for s, _ in kept), tuple(v for _, v in kept), label, unit))

    def label_mask(
        self, name: str, tokens: Sequence[str], scored: Sequence[bool], expected: Sequence[bool] = ()
    ) -> None:
        """Keep as evidence which tokens of a row are scored, and which should be; the first `MASK_LIMIT` tokens."""
        assert {len(scored), len(expected) or len(tokens)} == {len(tokens)}, "one mark a token"
        around = "".join(map(str, tokens[MASK_LIMIT - MASK_EDGE : MASK_LIMIT + MASK_EDGE]))
        secret = len(tokens) > MASK_LIMIT and self._scrub(around) != around  # which the cut would leave half of
        cut = slice(MASK_LIMIT - MASK_EDGE if secret else MASK_LIMIT)
        self._sink(
            LabelMask(
                name,
                tuple(shorten(str(t), 80, self._scrub) for t in tokens[cut]),
                tuple(bool(s) for s in scored[cut]),
                tuple(bool(e) for e in expected[cut]),
            )
        )

    def skip(self, reason: str) -> NoReturn:
        """End the probe: its promise cannot be put to the test here, for this reason."""
        raise SkipCell(reason)

    def _record(
        self,
        name: str,
        verdict: _Verdict,
        why: str,
        level: Level,
        owner: Any,
        beside: tuple[Beside, ...] = (),
    ) -> bool:
        record = CheckRecord(
            name=name,
            ok=verdict.ok,
            measured=self._show(verdict.measured),
            expected=self._show(verdict.expected) if verdict.expected != "" else "",
            tolerance=verdict.tolerance,
            why=why,
            level=level,
            owner=self._frame_of(owner) if owner is not None else None,
            beside=beside,
            value=_finite(verdict.value),
            allowed=_finite(verdict.allowed),
        )
        self.records.append(record)
        self._sink(record)
        return verdict.ok

    def _besides(self, judge: Callable[[Any], _Verdict], beside: Mapping[str, Any] | None) -> tuple[Beside, ...]:
        """Judge other ways by the same comparison; an exception never holds."""
        found = []
        for way, value in (beside or {}).items():
            if isinstance(value, BaseException):
                found.append(Beside(way, False, self._show(f"{type(value).__name__}: {value}")))
            else:
                verdict = judge(value)
                found.append(Beside(way, verdict.ok, self._show(verdict.measured)))
        return tuple(found)

    def _show(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        return shorten(value if isinstance(value, str) else repr(value), VALUE_LIMIT, self._scrub)


def attempt(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the exception that it raises: a way that breaks down is measured too."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - what it raised is what is measured
        return error


class _Verdict(NamedTuple):
    ok: bool
    measured: Any
    expected: Any
    tolerance: str = ""
    value: float | None = None
    allowed: float | None = None


def _close(a: list[float], b: list[float], rtol: float, atol: float) -> _Verdict:
    tolerance = f"atol={atol:g} rtol={rtol:g}"
    if len(a) != len(b):
        return _Verdict(False, f"{len(a)} values", f"{len(b)} values", tolerance)
    worst, where, ok = 0.0, 0, True
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        excess = abs(x - y) - (atol + rtol * abs(y))
        if not math.isfinite(x) or not math.isfinite(y):
            worst, where, ok = math.inf, i, False
            break
        if abs(x - y) > worst:
            worst, where = abs(x - y), i
        ok = ok and excess <= 0
    allowed = atol + rtol * abs(b[where]) if b else None
    if len(a) == 1:
        return _Verdict(ok, a[0], b[0], tolerance, a[0], allowed)
    shown = f"largest difference {worst:.3g} of {len(a)} values"
    if not ok:
        shown += f" (at {where}: {a[where]:.6g} against {b[where]:.6g})"
    return _Verdict(ok, shown, "the same values", tolerance, worst, allowed)


def _finite(value: float | None) -> float | None:
    """Return a number that JSON can hold, or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def _numbers(value: Any) -> list[float]:
    """Flatten numbers, nested sequences and tensors (by their own methods: this module knows no torch)."""
    if hasattr(value, "detach"):
        value = value.detach().double().flatten().tolist()
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [float(value)]
