"""What several commands share: options, completion of names, consoles."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from rich.console import Console


def complete_probe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of probes and areas."""
    from ftdoctor import registry
    from ftdoctor.probe import AREAS

    return [n for n in (*registry.probes(), *AREAS) if n.startswith(incomplete)]


def complete_cell(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete `axis=value`."""
    import ftdoctor_matrix as matrix

    choices = [f"{axis.name}={value}" for axis in matrix.axes().values() for value in axis.values]
    return [c for c in choices if c.startswith(incomplete)]


def complete_profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of profiles."""
    import ftdoctor_matrix as matrix

    return [n for n in matrix.profiles() if n.startswith(incomplete)]


probe_option = click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_probe,
    help="Only this probe, or the probes of this area; may be given several times.",
)


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse what lies in no range and in each."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number of seconds.")
    return value


jobs_option = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    help="Cells at a time; one per core by default. A GPU is used by one cell at a time.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    callback=_finite,
    help="Longest time a cell may take (default 120).",
)
no_redact_flag = click.option(
    "--no-redact",
    is_flag=True,
    help="Leave names, paths and addresses of this machine in: not for tickets.",
)
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine.")


def console(stderr: bool = False, stream: TextIO | None = None) -> Console:
    """Return a console on standard output or error that neither highlights nor wraps words in two.

    Args:
        stderr: on standard error.
        stream: what is written to in its place.
    """
    from rich.console import Console

    return Console(stderr=stderr, file=stream, highlight=False, soft_wrap=False)


def escape_the_rest() -> None:
    """Let standard output write what its encoding cannot hold as Python writes it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def show_json(data: Any) -> None:
    """Print JSON on standard output."""
    import json

    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def plain(marks: Sequence[str]) -> bool:
    """Say whether the output cannot show these marks in its encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "".join(marks).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False
