"""What a run found: plain frozen records, complete at birth, that know no library and no colour.

Every record is turned into JSON by `encode` and read back by `decode`; that JSON is the one truth from
which each report is rendered. A change of these records is a change of `SCHEMA`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ftdoctor.cells import Cell
from ftdoctor.errors import FtdoctorError
from ftdoctor.wording import shorten

SCHEMA = "ftdoctor/2"
SHOWN = 80
"""Characters of a value that has no place in a record, as it is told."""


class Outcome(str, enum.Enum):
    """What became of a probe in a cell."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    SKIPPED = "skipped"
    CRASHED = "crashed"

    @property
    def is_red(self) -> bool:
        """Whether this outcome is a finding."""
        return self in (Outcome.FAILED, Outcome.CRASHED)

    @property
    def is_examined(self) -> bool:
        """Whether the promise was put to the test."""
        return self is not Outcome.SKIPPED


class Level(str, enum.Enum):
    """What a check that does not hold means."""

    FAIL = "fail"
    WARN = "warn"
    NOTE = "note"
    """Evidence only: recorded, never judged."""


@dataclass(frozen=True)
class Frame:
    """A line of code and the distribution that owns it."""

    distribution: str
    """Name of the distribution, `python` for the standard library, empty where nobody owns the file."""
    version: str
    file: str
    line: int
    function: str = ""


@dataclass(frozen=True)
class Beside:
    """What another way of doing the same thing measures, judged by the same comparison."""

    way: str
    """`naive`: the script that people write by hand; `library`: what the installed library does by itself."""
    ok: bool
    measured: str


@dataclass(frozen=True)
class CheckRecord:
    """One measured comparison."""

    name: str
    ok: bool
    measured: str
    expected: str = ""
    tolerance: str = ""
    why: str = ""
    """Where the expectation or the tolerance comes from."""
    level: Level = Level.FAIL
    owner: Frame | None = None
    """The code whose promise was measured, where the probe can name it."""
    beside: tuple[Beside, ...] = ()
    """Other ways of doing the same; evidence only, they decide nothing."""
    value: float | None = None
    """What was measured as a number, where it is one and finite: of several values the largest difference."""
    allowed: float | None = None
    """How far `value` may lie from what was expected, where the tolerance is a number."""


@dataclass(frozen=True)
class Curve:
    """Values over the steps of a training or a generation; evidence only."""

    name: str
    """What was measured, in the words of a title: `loss`, `gradient norm`. Curves of one name share a plot."""
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    """One a step; None where it was not finite."""
    label: str = ""
    """Which of the curves of this name it is, empty where there is one."""
    unit: str = ""


@dataclass(frozen=True)
class LabelMask:
    """The tokens of a row, and which of them the loss scores; evidence only."""

    name: str
    """Which row, and who made the labels."""
    tokens: tuple[str, ...]
    """Each token as text."""
    scored: tuple[bool, ...]
    """One a token: whether its label is scored."""
    expected: tuple[bool, ...] = ()
    """One a token: whether it should be; empty where nothing was expected."""


@dataclass(frozen=True)
class Raised:
    """An exception that ended a probe."""

    type: str
    message: str
    traceback: str
    origin: str = ""
    """Type and message of the exception from which this one was raised, empty where there is none."""
    frames: tuple[Frame, ...] = ()
    """Outermost first; the last one raised. Of the exception from which this one was raised, where there is one."""


@dataclass(frozen=True)
class CellResult:
    """What became of one probe in one cell."""

    probe: str
    cell: Cell
    outcome: Outcome
    reason: str = ""
    """Why a cell was skipped or how it crashed."""
    checks: tuple[CheckRecord, ...] = ()
    raised: Raised | None = None
    warnings: tuple[str, ...] = ()
    output: str = ""
    """The end of what the cell printed, where it did not pass."""
    seconds: float = 0.0
    curves: tuple[Curve, ...] = ()
    label_masks: tuple[LabelMask, ...] = ()

    @property
    def broken_checks(self) -> tuple[CheckRecord, ...]:
        """The checks that do not hold, those that only warn among them."""
        return tuple(c for c in self.checks if not c.ok and c.level is not Level.NOTE)

    @property
    def failed_checks(self) -> tuple[CheckRecord, ...]:
        """The checks of level `fail` that do not hold."""
        return tuple(c for c in self.checks if not c.ok and c.level is Level.FAIL)


@dataclass(frozen=True)
class Culprit:
    """Whose line it is."""

    distribution: str
    version: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}, {self.file}:{self.line}"


@dataclass(frozen=True)
class Finding:
    """What one or more red cells with the same cause mean to the user."""

    probe: str
    summary: str
    cells: tuple[Cell, ...]
    culprit: Culprit | None = None
    depends_on: Mapping[str, str] = field(default_factory=dict)
    """Axis to the value (or values, joined by `|`) on which the failure depends."""
    dependence: str = ""
    """The same in words, with what it does not depend on."""
    cure: str = ""
    again: str = ""
    """The command that shows it again."""
    advisories: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Other probes that fail at the same line."""
    accepted: str = ""
    """The reason for which this finding is accepted, empty where it is not."""


@dataclass(frozen=True)
class Isolation:
    """How the cells were kept apart from each other."""

    mode: str
    """`fork server`, `fresh interpreters`, or `unknown` of a run that was killed."""
    reason: str
    memory_limit_enforced: bool = True


@dataclass(frozen=True)
class Skipped:
    """What did not run, and why."""

    probe: str
    cell: Cell
    reason: str


CONTROL = "without a fault"
"""What stands in place of a fault where a cell was examined as it is."""


@dataclass(frozen=True)
class Trial:
    """A probe in a cell with one fault in the stack, or without one."""

    probe: str
    fault: str
    """Name of the fault, or `without a fault`."""
    cell: Cell
    verdict: str
    """`caught`, `missed`, `clean`, `red without a fault` or `skipped`."""
    detail: str = ""
    checks: tuple[str, ...] = ()
    """Names of the checks that were judged, notes left out."""

    @property
    def ok(self) -> bool:
        """Whether the probe did what it must."""
        return self.verdict in ("caught", "clean", "skipped")


@dataclass(frozen=True)
class Redaction:
    """What was taken out of a run before anything of it was written."""

    done: bool
    """False where the user asked for none, and in what was written before there was any."""
    removed: Mapping[str, int] = field(default_factory=dict)
    """Kind of what was taken out to the number of places at which it stood."""


@dataclass(frozen=True)
class Run:
    """A whole run: the one truth behind every report."""

    schema: str
    ftdoctor: str
    outcome: str
    """`healthy`, `findings` or `unexamined`."""
    interrupted: bool
    started: str
    """UTC, ISO 8601."""
    seconds: float
    profile: str
    model: str
    """The user's model, or empty for the tiny ones."""
    machine: Mapping[str, Any]
    stack: Mapping[str, str]
    isolation: Isolation
    planned: int
    results: tuple[CellResult, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    areas: Mapping[str, str] = field(default_factory=dict)
    """Probe to the area it belongs to."""
    notes: tuple[str, ...] = ()
    promises: Mapping[str, str] = field(default_factory=dict)
    """Probe to its promise, a sentence."""
    installed: Mapping[str, str] = field(default_factory=dict)
    """Distribution to version of what the stack depends on, the stack itself left out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that steer the stack."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """What was asked of the run, by the command line and the configuration file."""
    selftest: tuple[Trial, ...] = ()
    """Whether the probes catch the faults that were put into the stack; empty where that was not tried."""
    redaction: Redaction = Redaction(done=False)


Record = TypeVar("Record")


def encode(value: Any) -> Any:
    """Turn a record into what JSON can hold: a cell is a mapping of axis to value, what is not finite is a text."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, Cell):
        value = value.asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in names_of(type(value))}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    endless = isinstance(value, float) and not math.isfinite(value)
    return str(value) if endless else value


@functools.cache
def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of a record's fields."""
    return tuple(f.name for f in dataclasses.fields(kind))


def dumps(value: Any, **form: Any) -> str:
    """Return a record as JSON text that every encoding of Unicode can hold; `form` is handed to `json.dumps`."""
    text = json.dumps(encode(value), ensure_ascii=False, **form)
    # Halves of pairs come from file names that are not UTF-8; JSON has a way to write them, UTF-8 has none.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def decode(kind: type[Record], data: Any) -> Record:
    """Read a record back from parsed JSON.

    Raises:
        FtdoctorError: the data does not have the form of `kind`.
    """
    try:
        return typing.cast("Record", _decode(kind, data))
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise FtdoctorError(f"This is not a {kind.__name__} of {SCHEMA}: {error}.") from error


def _decode(kind: Any, data: Any) -> Any:
    if kind is Cell:
        return Cell.of({str(k): str(v) for k, v in data.items()})
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _refuse_other(data, dict)
        hints = typing.get_type_hints(kind)
        known = names_of(kind)
        return kind(**{k: _decode(hints[k], v) for k, v in data.items() if k in known})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, Mapping):
        return _many(origin, arguments, data)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _decode(arguments[0], data)
    return _number(data) if kind is float else _plain(kind, data)


def _many(origin: Any, arguments: tuple[Any, ...], data: Any) -> Any:
    _refuse_other(data, list if origin is tuple else dict)
    if origin is tuple:
        return tuple(_decode(arguments[0], v) for v in data)
    return {k: _decode(arguments[1], v) for k, v in data.items()}


def _plain(kind: Any, data: Any) -> Any:
    if kind in (str, int, bool):
        _refuse_other(data, kind)
    return data


def _number(data: Any) -> float:
    value = float(data) if isinstance(data, int) else data
    _refuse_other(value, float)
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def _refuse_other(data: Any, kind: type) -> None:
    if not isinstance(data, kind):
        raise TypeError(f"{shorten(repr(data), SHOWN)} is not a {kind.__name__}")
