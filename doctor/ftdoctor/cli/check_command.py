"""`ftdoctor check`: the main job."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.config import Config
    from ftdoctor.examine import Request
    from ftdoctor.probe import Probe
    from ftdoctor.results import Run

PLAN_OPTIONS = ("probes", "cells", "profile", "model", "online", "trust_remote_code")


@click.command()
@options.probe_option
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="AXIS=VALUE",
    shell_complete=options.complete_cell,
    help="Only cells with this value, or one of several: axis=a,b; may be given several times.",
)
@click.option(
    "--profile",
    shell_complete=options.complete_profile,
    metavar="NAME",
    help="How much to examine: quick, default, full or reference.",
)
@click.option("--model", metavar="PATH_OR_ID", help="Your own model in place of the tiny ones.")
@click.option("--online", is_flag=True, help="Allow --model to be fetched from the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run the Python code that comes with --model.")
@options.jobs_option
@options.timeout_option
@click.option(
    "--json",
    "json_path",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the report as JSON to a file, or to standard output.",
)
@click.option("--html", "html_path", metavar="FILE", help="Write the report as one HTML file.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    metavar="[JOURNAL]",
    help="Finish the last run that was killed or interrupted, or the one of this journal.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print only the findings and the verdict.")
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Examine this machine and its fine-tuning stack.

    Exit status: 0 healthy, 1 findings, 2 wrong usage, 3 nothing could be examined, 130 interrupted.
    """
    from ftdoctor import config
    from ftdoctor.examine import examine, prepare

    configuration = config.find(Path.cwd())
    json_path = chosen["json_path"] or configuration.json
    html_path = chosen["html_path"] or configuration.html
    for path in (json_path, html_path):
        _refuse_unwritable(path)
    given = [n for n in PLAN_OPTIONS if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
    request = _resumed(chosen, given, configuration) if chosen["resume"] else _asked(chosen, configuration)
    prepared = prepare(request)
    screen = _Screen(quiet=chosen["quiet"], to_stderr=json_path == "-")
    screen.begin(prepared)
    with _terminated_as_interrupted(), screen.progress(len(prepared.to_run)) as listen:
        run = examine(prepared, listen)
    screen.end(run)
    _write(run, json_path, html_path, screen)
    ctx.exit(_status(run))


def _status(run: Run) -> int:
    if run.interrupted:
        return 130
    return {"healthy": 0, "findings": 1, "unexamined": 3}[run.outcome]


def _asked(chosen: dict[str, Any], configuration: Config) -> Request:
    """Make the request out of the command line, which wins, and the configuration."""
    import ftdoctor_matrix as matrix
    from ftdoctor import registry
    from ftdoctor.cells import parse_selection
    from ftdoctor.errors import UsageError
    from ftdoctor.examine import Request
    from ftdoctor.wording import nearest

    profile = chosen["profile"] or configuration.profile or "default"
    if profile not in matrix.profiles():
        known = ", ".join(matrix.profiles())
        raise UsageError(f"There is no profile {profile!r}{nearest(profile, matrix.profiles())}; there are {known}.")
    names = chosen["probes"] or configuration.probes
    return Request(
        probes=registry.choose(names) if names else _of_areas(registry.probes(), matrix.profiles()[profile].areas),
        profile=profile,
        selection=parse_selection(chosen["cells"] or configuration.cells, matrix.axes()),
        model=_model(chosen),
        trust_remote_code=chosen["trust_remote_code"],
        **_how(chosen, configuration),
    )


def _of_areas(probes: Mapping[str, Probe], areas: Sequence[str]) -> dict[str, Probe]:
    """Return the probes that a profile examines where none is named: those of its areas."""
    return {name: probe for name, probe in probes.items() if not areas or probe.area in areas}


def _resumed(chosen: dict[str, Any], given: list[str], configuration: Config) -> Request:
    """Make the request out of a journal's header: what is examined is what that run was asked."""
    from ftdoctor import registry
    from ftdoctor.errors import UsageError
    from ftdoctor.examine import Request
    from ftdoctor.runner.journal import Journal, latest

    if given:
        raise UsageError("--resume takes its choice of cells from the journal; leave out the options that choose.")
    journal = Journal(latest() if chosen["resume"] == "latest" else Path(chosen["resume"]))
    header = journal.header()
    return Request(
        probes=registry.choose(header["probes"]),
        profile=header["profile"],
        selection={a: tuple(v) for a, v in header["selection"].items()},
        model=header["model"],
        trust_remote_code=header["trust_remote_code"],
        resume=journal,
        **_how(chosen, configuration),
    )


def _how(chosen: dict[str, Any], configuration: Config) -> dict[str, Any]:
    return {
        "jobs": chosen["jobs"] or configuration.jobs,
        "timeout": chosen["timeout"] or configuration.timeout,
        "expect": configuration.expect,
        "thresholds": configuration.thresholds,
        "accept": configuration.accept,
    }


def _model(chosen: dict[str, Any]) -> str:
    """Return the local folder of the user's model, fetched first where --online allows it."""
    if not chosen["model"]:
        return ""
    from ftdoctor.bench.models import refuse_unsafe

    folder = Path(chosen["model"])
    if not folder.exists() and chosen["online"]:
        from ftdoctor.bench.hub import fetch

        folder = fetch(chosen["model"], chosen["trust_remote_code"])
    refuse_unsafe(folder, chosen["trust_remote_code"])
    return str(folder.resolve())


def _refuse_unwritable(path: str) -> None:
    """Say before the run, not after it, that a report cannot be written where it should be."""
    from ftdoctor.errors import UsageError

    if not path or path == "-":
        return
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a"):
            pass
        if not target.stat().st_size:
            target.unlink()
    except OSError as error:
        raise UsageError(f"The report {path} cannot be written: {error.strerror}; name another file.") from error


def _write(run: Run, json_path: str, html_path: str, screen: _Screen) -> None:
    from ftdoctor_reports import html, json

    for path, render in ((json_path, json.render), (html_path, html.render)):
        if path == "-":
            click.echo(render(run))
        elif path:
            Path(path).write_text(render(run), encoding="utf-8")
            screen.say(f"report: {path}")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Any:
    """Take a request to terminate as Ctrl-C, so that it too leaves a report."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Screen:
    """What a person sees: the head at once, progress while it runs, the verdict at the end."""

    def __init__(self, quiet: bool, to_stderr: bool) -> None:
        self.quiet = quiet
        self.console = options.console(stderr=to_stderr)

    def say(self, text: str) -> None:
        """Print a line, unless it is to be quiet."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def begin(self, prepared: Any) -> None:
        """Print machine and stack before anything slow happens."""
        from ftdoctor_reports import terminal

        if not self.quiet:
            self.console.print(terminal.head(prepared.machine, prepared.stack, prepared.request.model))
            self.console.print()

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
            shown.update(task, advance=1, description=f"{mark}{result.probe} {result.cell}"[:60])

        yield listen


def _lines(total: int) -> Any:
    """Return a listener that writes a line a result to standard error: a log has no cursor."""
    done = 0

    def listen(result: Any) -> None:
        nonlocal done
        done += 1
        text = f"[{done}/{total}] {result.outcome.value:<7} {result.probe} {result.cell} ({result.seconds:.1f} s)"
        print(text.rstrip(), file=sys.stderr, flush=True)  # noqa: T201 - this is the log

    return listen
