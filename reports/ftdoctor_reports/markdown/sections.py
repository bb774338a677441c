"""The folded sections of a report as Markdown: the matrix, what did not run, versions, environment, selftest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ftdoctor.machine import describe
from ftdoctor.results import Level, Outcome, dumps
from ftdoctor.wording import count, seconds
from ftdoctor_reports import tally
from ftdoctor_reports.markdown.fit import Part, Shorter
from ftdoctor_reports.markdown.text import CELL, ROWS, bullets, code, details, fence, prose, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.results import CellResult, CheckRecord, Run

SLOWEST = 10


def sections(run: Run) -> list[Part]:
    """Return what is folded under the findings of a whole run, in the order in which it is read."""
    made = [
        _section(42, "the promises that warn", _warned(run)),
        _section(24, "the cells that are not green", _not_green(run)),
        _section(46, "the matrix", _matrix(run)),
        _section(48, "what did not run", _skipped(run)),
        _section(30, "the table of components", _compared(run)),
        _section(22, "the selftest", _selftest(run)),
        _section(12, "the timings", _timings(run)),
        _section(10, "the libraries' warnings", _warnings(run)),
    ]
    return [part for part in made if part is not None] + about(run)


def about(run: Run) -> list[Part]:
    """Return what every ticket may be asked for: machine and versions, environment, configuration."""
    made = [
        _section(50, "machine and versions", _versions(run)),
        _section(18, "the environment", _environment(run)),
        _section(16, "the configuration", _configuration(run)),
    ]
    return [part for part in made if part is not None]


def _section(importance: int, what: str, made: tuple[str, str]) -> Part | None:
    title, inside = made
    return Part(details(title, inside), (Shorter(importance, what),)) if inside else None


def more(things: Sequence[object]) -> str:
    """Return a line on those that stand beyond `ROWS`."""
    return f"\n\n{len(things) - ROWS} more are in the JSON and the HTML report." if len(things) > ROWS else ""


def checked(checks: Sequence[CheckRecord], *, why: bool = True) -> str:
    """Return what was measured against what was expected, what does not hold first, with the reasons if asked for."""
    ordered = sorted(checks, key=lambda c: (c.ok, c.level is Level.NOTE))
    rows = [
        (_judged(c), prose(c.name, CELL), *(code(text, CELL) for text in (c.measured, c.expected, c.tolerance)))
        + ((prose(c.why, 2 * CELL),) if why else ())
        for c in ordered[:ROWS]
    ]
    heads = ("", "check", "measured", "expected", "tolerance", "why")
    return table(heads if why else heads[:-1], rows) + more(ordered)


def _judged(check: CheckRecord) -> str:
    if check.level is Level.NOTE:
        return "·"
    if check.ok:
        return tally.MARKS[Outcome.PASSED]
    return tally.MARKS[Outcome.WARNED if check.level is Level.WARN else Outcome.FAILED]


def _warned(run: Run) -> tuple[str, str]:
    found = list(tally.warned(run))
    listed = bullets(f"{code(result.probe, 80)}: {prose(text)}" for result, text in found[:ROWS])
    return f"Warnings ({len(found)})", listed + more(found)


def _not_green(run: Run) -> tuple[str, str]:
    found = [r for r in run.results if r.outcome in (Outcome.FAILED, Outcome.CRASHED, Outcome.WARNED)]
    rows = [
        (f"{tally.MARKS[r.outcome]} {r.outcome.value}", code(r.probe, 80), code(str(r.cell), CELL), _what(r))
        for r in sorted(found, key=lambda r: not r.outcome.is_red)[:ROWS]
    ]
    told = table(("outcome", "probe", "cell", "what"), rows) + more(found) if rows else ""
    return f"Cells that are not green ({len(found)})", told


def _what(result: CellResult) -> str:
    if result.reason:
        return prose(result.reason, CELL)
    if result.raised:
        return code(f"{result.raised.type}: {result.raised.message}", CELL)
    return ", ".join(prose(c.name, 80) for c in [c for c in result.checks if not c.ok][:4])


def _matrix(run: Run) -> tuple[str, str]:
    """Return a row a probe, with the number of its cells of each outcome."""
    rows = []
    for area, results in tally.by_area(run).items():
        for probe in dict.fromkeys(r.probe for r in results):
            counted = Counter(r.outcome for r in results if r.probe == probe)
            rows.append((prose(area, 40), code(probe, 80), *(str(counted[o] or "") for o in Outcome)))
    heads = ("area", "probe", *(f"{tally.MARKS[o]} {o.value}" for o in Outcome))
    return f"Probes ({len(rows)}) and cells ({len(run.results)})", table(heads, rows) if rows else ""


def _skipped(run: Run) -> tuple[str, str]:
    reasons = tally.skips(run)
    lines = [f"{count(number, 'cell')}: {prose(reason)}" for reason, number in reasons[:ROWS]]
    lines += [f"Note: {prose(note)}" for note in run.notes[:ROWS]]
    curves, masks = (sum(len(getattr(r, name)) for r in run.results) for name in ("curves", "label_masks"))
    if curves or masks:
        lines.append(f"Note: {count(curves, 'curve')} and {count(masks, 'label mask')} are in the HTML report")
    lines += [f"Note: {prose(note)}" for note in tally.apart(run)]
    return f"Skipped ({count(len(run.skipped), 'cell')}) and noted", bullets(lines) + more(reasons)


def _compared(run: Run) -> tuple[str, str]:
    promises = tally.compared(run)
    rows = [
        (code(p.probe, 80), prose(p.check, CELL), *(p.share(way) or "not tried" for way in tally.WAYS))
        for p in promises[:ROWS]
    ]
    heads = ("probe", "promise", *tally.WAYS.values())
    return "Components: cells in which each way keeps the promise", table(heads, rows) + more(promises) if rows else ""


def _selftest(run: Run) -> tuple[str, str]:
    trials = sorted(run.selftest, key=lambda t: (t.ok, t.verdict == "skipped"))
    counted = Counter(t.verdict for t in trials)
    rows = [
        (prose(t.verdict, 40), code(t.probe, 80), prose(t.fault, CELL), code(str(t.cell), CELL), prose(t.detail, CELL))
        for t in trials[:ROWS]
    ]
    told = ", ".join(f"{number} {prose(verdict, 40)}" for verdict, number in counted.most_common(8))
    heads = ("verdict", "probe", "fault", "cell", "detail")
    return f"Selftest ({count(len(trials), 'trial')})", f"{told}\n\n{table(heads, rows)}{more(trials)}" if rows else ""


def _timings(run: Run) -> tuple[str, str]:
    ran = sorted((r for r in run.results if r.outcome.is_examined), key=lambda r: -r.seconds)
    rows = [(seconds(r.seconds), code(r.probe, 80), code(str(r.cell), CELL)) for r in ran[:SLOWEST]]
    return f"Slowest cells (of {len(ran)})", table(("time", "probe", "cell"), rows) if rows else ""


def _warnings(run: Run) -> tuple[str, str]:
    """Return what the libraries warned about, most frequent first."""
    counted = Counter(text for r in run.results for text in r.warnings)
    lines = [f"{number} x {code(text)}" for text, number in counted.most_common(ROWS)]
    return f"Warnings of the libraries ({len(counted)})", bullets(lines) + more(list(counted))


def _versions(run: Run) -> tuple[str, str]:
    rows = [(prose(label, 40), code(text)) for label, text in describe(run.machine)]
    stack = _pairs({**run.stack, **run.installed})
    return "Machine and versions", table(("machine", ""), rows) + (f"\n\n{stack}" if stack else "")


def _environment(run: Run) -> tuple[str, str]:
    return f"Environment variables ({len(run.environment)})", _pairs(run.environment)


def _pairs(values: Mapping[str, str]) -> str:
    rows = [(code(name, 80), code(value, CELL)) for name, value in list(values.items())[: 2 * ROWS]]
    rest = f"\n\n{len(values) - 2 * ROWS} more are in the JSON and the HTML report." if len(values) > 2 * ROWS else ""
    return table(("name", "value"), rows) + rest if rows else ""


def _configuration(run: Run) -> tuple[str, str]:
    text = dumps(run.configuration, indent=1, default=str) if run.configuration else ""
    return "Configuration", fence(text, "json") if text else ""
