"""`ftdoctor diff`: two runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ftdoctor_reports.difference.compare import Difference

STATUS = {"better": 0, "same": 0, "worse": 1, "not comparable": 3}


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.json_flag
@click.option(
    "--markdown", is_flag=False, flag_value="-", metavar="[FILE]", help="Write Markdown that fits into a ticket."
)
@click.option("--html", is_flag=False, flag_value="-", metavar="[FILE]", help="Write one HTML file.")
@click.option("--quiet", "-q", is_flag=True, help="Print only the verdict and the findings that make B worse.")
@options.no_redact_flag
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Compare two runs: before and after an upgrade, or two machines.

    A and B are reports, as JSON or HTML, of this ftdoctor or an older one. B is held against A: versions that differ,
    cells that changed their outcome, values that drifted beyond their tolerance, findings that are new or gone. What
    only one of the two planned, as with another profile, makes neither of them worse.

    Exit status: 0 B is not worse, 1 B is worse, 2 wrong usage, 3 the two have nothing in common.
    """
    from ftdoctor import config
    from ftdoctor.cli import formats
    from ftdoctor_reports import json
    from ftdoctor_reports.difference.compare import compare

    as_json = "-" if chosen["as_json"] else None
    asked = formats.targets({"json": as_json, **chosen}, sources=[chosen["a"], chosen["b"]])
    redactor = formats.redactor(chosen["no_redact"], config.here().redact)
    a, b = (redactor.run(json.load(Path(chosen[side]))) for side in "ab")
    names = _names(chosen["a"], chosen["b"])
    difference = compare(a, b, (redactor.text(names[0]), redactor.text(names[1])))
    written = _write(difference, asked)
    if "-" not in asked.values():
        _print(difference, chosen["quiet"])
    ctx.exit(STATUS[difference.verdict] if written else 2)


def _names(a: str, b: str) -> tuple[str, str]:
    """Return the names of two files without their folders, where that tells them apart."""
    names = Path(a).name, Path(b).name
    return names if names[0] != names[1] else (a, b)


def _write(difference: Difference, asked: Mapping[str, str]) -> bool:
    """Write every form that was asked for, and return whether all of them were; what was not is told."""
    from ftdoctor.cli.formats import put_each
    from ftdoctor.results import dumps
    from ftdoctor_reports.difference import markdown, page

    render = {
        "json": lambda told: dumps(told, indent=1),
        "markdown": markdown.render,
        "html": page.render,
    }
    failed = put_each(asked, lambda name: render[name](difference))
    for _, path, error in failed:
        if not isinstance(error, OSError):
            raise error
        shown = "Standard output" if path == "-" else path
        click.echo(f"ftdoctor: {shown} cannot be written ({error.strerror}); name another file.", err=True)
    return not failed


def _print(difference: Difference, quiet: bool) -> None:
    from ftdoctor_reports.difference import terminal

    options.escape_the_rest()
    out = options.console()
    out.print(terminal.render(difference, terminal.Look(out.width, options.plain(terminal.UNICODE)), quiet=quiet))
