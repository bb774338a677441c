"""`ftdoctor report`: a run rendered again, in any form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli.formats import format_options

if TYPE_CHECKING:
    from ftdoctor.config import Config
    from ftdoctor.results import Run


@click.command()
@click.argument("source", required=False, metavar="[REPORT]")
@format_options
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the JSON form, and nothing else.")
@click.pass_context
def command(ctx: click.Context, /, source: str | None, schema: bool, **chosen: Any) -> None:
    """Render a run again: a REPORT as JSON or HTML, or else the last run of this machine.

    Without a form it is shown as on the terminal. Of a run that was killed there is what it had. Reports of older
    ftdoctors are read too.
    """
    from ftdoctor import config
    from ftdoctor.cli import formats
    from ftdoctor.cli.screen import Screen
    from ftdoctor_reports import json

    if schema:
        click.echo(json.schema(), nl=False)
        return
    configuration = config.here()
    asked = formats.targets(chosen, sources=[source] if source else [])
    run = json.load(Path(source)) if source else _last(configuration)
    run = formats.redactor(chosen["no_redact"], configuration.redact).run(run)
    screen = Screen(quiet=False, to_stderr="-" in asked.values())
    if not asked:
        screen.begin(run.machine, run.stack, run.model, run.ftdoctor)
        screen.end(run)
    written = formats.write(run, asked, screen.say, Path(source) if source else None)
    ctx.exit(0 if screen.complete() and written else 2)


def _last(configuration: Config) -> Run:
    """Return the last run of this machine: as it was kept, or out of its journal if it was killed."""
    from ftdoctor.cli import asking
    from ftdoctor.cli.formats import KEPT
    from ftdoctor.examine import keep_journal, prepare, recover
    from ftdoctor.runner.journal import Journal, latest
    from ftdoctor_reports import json

    path = latest()
    kept = path.with_name(KEPT)
    if kept.exists():
        return json.load(kept)
    return recover(keep_journal(prepare(asking.resumed(Journal(path), {}, configuration))))
