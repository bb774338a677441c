"""What a person sees while a run goes on: the head at once, progress, the verdict at the end."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from ftdoctor import __version__
from ftdoctor.cli import options
from ftdoctor.cli.streams import Lasting
from ftdoctor.wording import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ftdoctor.results import CellResult, Run, Trial


class Screen:
    """The console of one run, which ends no run because what it shows reaches nobody.

    Args:
        quiet: print only findings and verdict.
        to_stderr: standard output is taken by a report.
    """

    def __init__(self, quiet: bool, to_stderr: bool) -> None:
        self.quiet = quiet
        self._stream = Lasting(sys.stderr if to_stderr else sys.stdout)
        self.console = options.console(stderr=to_stderr, stream=self.stream)

    @property
    def stream(self) -> TextIO:
        """Where it prints."""
        return cast("TextIO", self._stream)

    def complete(self) -> bool:
        """Return whether everything could be shown, or nobody reads on; what could not is told on standard error."""
        broken = self._stream.broken
        if broken is None or isinstance(broken, BrokenPipeError):
            return True
        with contextlib.suppress(OSError):  # the same terminal
            click.echo(f"ftdoctor: not all of this could be shown ({broken.strerror}).", err=True)
        return False

    def say(self, text: str) -> None:
        """Print a line, unless it is to be quiet."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def begin(
        self, machine: Mapping[str, Any], stack: Mapping[str, str], model: str, version: str = __version__
    ) -> None:
        """Print machine and stack before anything slow happens."""
        from ftdoctor_reports import terminal

        if not self.quiet:
            self.console.print(terminal.head(machine, stack, model, version))
            self.console.print()

    def trial(self, trial: Trial) -> None:
        """Print what became of a fault."""
        from ftdoctor_reports import terminal

        if not self.quiet:
            self.console.print(terminal.trial(trial))

    def end(self, run: Run) -> None:
        """Print the verdict."""
        from ftdoctor_reports import terminal

        self.console.print(terminal.body(run, quiet=self.quiet, ascii_only=options.plain(terminal.MARKS)))

    @contextlib.contextmanager
    def progress(self, total: int) -> Any:
        """Show a live bar on a terminal, a line now and then in a log, nothing when quiet."""
        if self.quiet:
            yield lambda _: None
        elif self.console.is_terminal:
            with _bar(self.console, total) as listen:
                yield listen
        else:
            yield _lines(total)


@contextlib.contextmanager
def _bar(console: Any, total: int) -> Any:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("importing the stack", total=total)

        def listen(result: Any) -> None:
            mark = "[red]" if result.outcome.is_red else ""
            shown.update(task, advance=1, description=mark + escape(_about(result)[:60]))

        yield listen


def _lines(total: int) -> Any:
    """Return a listener that writes a line a result to standard error: a log has no cursor."""
    done, log = 0, cast("TextIO", Lasting(sys.stderr))

    def listen(result: Any) -> None:
        nonlocal done
        done += 1
        text = f"[{done}/{total}] {result.outcome.value:<7} {_about(result)} ({result.seconds:.1f} s)"
        print(text, file=log, flush=True)

    return listen


def _about(result: CellResult) -> str:
    return visible(f"{result.probe} {result.cell}".rstrip())
