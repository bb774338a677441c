"""`ftdoctor check`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options
from ftdoctor.cli.formats import format_options

if TYPE_CHECKING:
    from ftdoctor.config import Config
    from ftdoctor.request import Prepared, Request
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
@format_options
@click.option(
    "--selftest",
    is_flag=True,
    help="Afterwards put each fault of these probes into the stack, and report which ones are caught.",
)
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

    Exit status: 0 healthy, 1 findings, 2 wrong usage or a report that could not be written, 3 nothing could be
    examined, 130 interrupted.
    """
    from ftdoctor import config
    from ftdoctor.cli import actions, formats
    from ftdoctor.cli.interrupts import interruptible
    from ftdoctor.cli.screen import Screen
    from ftdoctor.examine import examine, keep_journal, prepare
    from ftdoctor.selftest import add_selftest

    configuration = config.here()
    asked = formats.targets(chosen, configuration)
    given = [n for n in PLAN_OPTIONS if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
    prepared = keep_journal(prepare(_request(chosen, given, configuration)))
    redactor = formats.redactor(chosen["no_redact"], configuration.redact)
    screen = Screen(quiet=chosen["quiet"], to_stderr="-" in asked.values())
    with interruptible() as interrupts:
        with actions.guarded(screen.stream):
            screen.begin(prepared.machine, prepared.stack, redactor.text(prepared.request.model))
            with screen.progress(len(prepared.to_run)) as listen:
                run = examine(prepared, listen, interrupts.running)
            if chosen["selftest"] and not run.interrupted:
                screen.say("the faults of these probes, each put into the stack:")
                run = add_selftest(
                    run, prepared.request, lambda trial: screen.trial(redactor.record(trial)), interrupts.running
                )
            run = redactor.run(run)
        try:
            with actions.guarded(screen.stream):
                screen.end(run)
            actions.leave(run, screen.stream)
        finally:  # whatever goes wrong with showing it
            written = formats.write(run, asked, screen.say, _kept(run, prepared))
    ctx.exit(_status(run, screen.complete() and written))


def _request(chosen: dict[str, Any], given: list[str], configuration: Config) -> Request:
    from ftdoctor.cli import asking
    from ftdoctor.errors import UsageError
    from ftdoctor.runner.journal import Journal, latest

    if not chosen["resume"]:
        return asking.asked(chosen, configuration)
    if given:
        raise UsageError("--resume takes its choice of cells from the journal; leave out the options that choose.")
    journal = Journal(latest() if chosen["resume"] == "latest" else Path(chosen["resume"]))
    return asking.resumed(journal, chosen, configuration)


def _kept(run: Run, prepared: Prepared) -> Path | None:
    """Keep the run beside its journal, so that `ftdoctor report` can render it again."""
    from ftdoctor.cli import formats

    return formats.save(run, prepared.journal.path.parent) if prepared.journal else None


def _status(run: Run, written: bool) -> int:
    if run.interrupted:
        return 130
    status = {"healthy": 0, "findings": 1, "unexamined": 3}[run.outcome]
    return status or (0 if written else 2)
