"""Predictions on a terminal: a table of the chosen steps, and a line for each step of the job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ftdoctor.wording import count, shorten, visible
from ftdoctor_reports.predictions.changes import changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from ftdoctor_reports.predictions.tally import Job, Judged, Step

WIDE = 72
"""From so many columns on there is a table; on fewer each prediction is a block of its own."""
STEPS_SHOWN = 12
LEVELS = "▁▂▃▄▅▆▇█"
PIECES = {"same": 48, "gone": 60, "new": 120}
"""Characters of an unchanged, a lost and a new piece that are shown at most."""
TEMPLATE = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|</?(?:start|end)_of_turn>")
STYLES = {"same": "", "gone": "red strike", "new": "green underline"}
MARKS = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
UNICODE = "✓✗·▁█↵"


@dataclass(frozen=True)
class Look:
    """How things are shown."""

    width: int
    marked: bool = False
    """Mark changes by `[-gone-]` and `{+new+}`, because there are no colours."""
    ascii_only: bool = False
    full: bool = False
    """Do not shorten texts."""

    def mark(self, right: bool) -> str:
        """Return the mark of what is right or failed."""
        return ("ok" if right else "x") if self.ascii_only else "✓" if right else "✗"

    def cut(self, text: str, limit: int) -> str:
        """Return a text in one line, everything visible, at most so long."""
        end = "\\n" if self.ascii_only else "↵ "
        text = text if self.full else shorten(text, 4 * limit)
        line = visible(text).replace("\n", end).replace("\t", " ")
        if self.ascii_only:
            line = line.encode("ascii", "backslashreplace").decode()
        return line if self.full else shorten(line, limit)

    def gist(self, prompt: str, limit: int) -> str:
        """Return what tells a prompt from others: without the marks of its template, which all of them have."""
        return self.cut(prompt if self.full else " ".join(TEMPLATE.sub(" ", prompt).split()) or prompt, limit)


def render(job: Job, shown: Job, others: Sequence[Job], look: Look) -> RenderableType:
    """Return head, table and steps.

    Args:
        job: all that is known of it: the line for each step is of this.
        shown: what of it is in the table.
        others: jobs that are not shown; they are named.
        look: how.
    """
    parts: list[RenderableType] = [*_head(job, others), Text()]
    for step in shown.steps:
        judged = [one for history in shown.samples.values() for one in history if one.row.step == step.step]
        epoch = "" if step.epoch is None else f" (epoch {step.epoch:.3g})"
        parts.append(Text(f"step {step.step}{epoch}", "bold"))
        parts += [_table(judged, look) if look.width >= WIDE else Group(*_blocks(judged, look)), Text()]
    return Group(*parts, *_steps(job.steps, look))


def _head(job: Job, others: Sequence[Job]) -> Iterator[RenderableType]:
    user = f" of {visible(job.user)}" if job.user else ""
    yield Text(f"job {visible(job.name)}{user}: {job.extent()}")
    last = job.steps[-1]
    yield Text(job.verdict(), style="bold red" if job.lost else "bold yellow" if last.failed else "bold")
    if others:
        names = ", ".join(visible(other.name) for other in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield Text(f"also here: {names}{more}; --job NAME shows another", "dim")


def _table(judged: Sequence[Judged], look: Look) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True)
    table.add_column("sample", justify="right", no_wrap=True)
    table.add_column("prompt", ratio=3, overflow="fold")
    table.add_column("ground truth", ratio=3, overflow="fold")
    table.add_column("prediction", ratio=5, overflow="fold")
    table.add_column("exact", no_wrap=True)
    table.add_column("similar", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    limit = look.width // 2
    for one in judged:
        row = one.row
        table.add_row(
            str(row.sample_index),
            Text(look.gist(row.prompt, limit), "dim"),
            Text("none", "dim") if row.ground_truth is None else Text(look.cut(row.ground_truth, limit)),
            _written(one, look),
            _exact(one, look),
            "-" if one.similarity is None else f"{one.similarity:.2f}",
            "-" if one.failed else str(row.tokens),
        )
    return table


def _blocks(judged: Sequence[Judged], look: Look) -> Iterator[RenderableType]:
    for one in judged:
        row = one.row
        told = [f"{look.mark(False)} failed"] if one.failed else [count(row.tokens, "token")]
        told = ([] if one.similarity is None else [f"{one.similarity:.2f}"]) + told
        told = ([] if one.exact is None else ["exact" if one.exact else "not exact"]) + told
        yield Text(f"sample {row.sample_index}  {', '.join(told)}".rstrip(), "bold")
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, style="dim")
        grid.add_column(overflow="fold")
        limit = 3 * look.width
        grid.add_row("  prompt", Text(look.gist(row.prompt, limit)))
        grid.add_row("  truth", Text("none" if row.ground_truth is None else look.cut(row.ground_truth, limit)))
        grid.add_row("  wrote" if not one.failed else "  error", _written(one, look))
        yield grid


def _exact(one: Judged, look: Look) -> Text:
    if one.failed:
        return Text(f"{look.mark(False)} failed", "bold red")
    if one.exact is None:
        return Text("-")
    return Text(look.mark(True), "green") if one.exact else Text("no")


def _written(one: Judged, look: Look) -> Text:
    """Return the prediction with its changes since the step before, or the error; never nothing."""
    row = one.row
    if row.prediction is None:
        error = visible(row.error or "there is neither a prediction nor an error").replace("\n", " ")
        return Text(error if look.full else shorten(error, 400), "red")
    told = Text()
    if one.before is None or one.before.prediction is None or one.unchanged:
        told.append(look.cut(row.prediction, 240))
    else:
        for part in changes(one.before.prediction, row.prediction).parts:
            piece = look.cut(part.text, PIECES[part.kind])
            told.append((MARKS[part.kind] if look.marked else "{}").format(piece), STYLES[part.kind])
            if len(told) > 480 and not look.full:
                told.append(" ...")
                break
    if not row.prediction.strip():
        told.append("(empty)" if not row.prediction else " (only white space)", "dim")
    ended = {"length": "token limit", "time": "time limit"}.get(row.finish)
    notes = [f"ended by the {ended}"] if ended else []
    notes += [f"prompt clipped by {count(row.clipped, 'token')}"] if row.clipped else []
    notes += ["unchanged"] if one.unchanged else []
    notes += [visible(row.error)] if row.error else []
    return told.append(f" ({'; '.join(notes)})", "dim") if notes else told


def _steps(steps: Sequence[Step], look: Look) -> Iterator[RenderableType]:
    """Yield the course: a small curve, and the last steps in numbers."""
    known = [step.similarity for step in steps if step.similarity is not None]
    if len(known) > 1 and not look.ascii_only:
        last = steps[-max(8, look.width - 30) :]
        curve = "".join("✗" if s.similarity is None else LEVELS[min(7, int(s.similarity * 8))] for s in last)
        yield Text(f"similarity {known[0]:.2f} {curve} {known[-1]:.2f}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("step", "exact", "similar", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = steps if look.full else steps[-STEPS_SHOWN:]
    for step in shown:
        table.add_row(
            str(step.step),
            f"{step.exact} of {step.judged}" if step.judged else "-",
            "-" if step.similarity is None else f"{step.similarity:.2f}",
            Text(f"{look.mark(False)} {step.failed} of {step.predictions}", "red") if step.failed else "0",
        )
    if len(shown) < len(steps):
        yield Text(f"the last {len(shown)} of {len(steps)} steps (--full shows all)", "dim")
    yield table
