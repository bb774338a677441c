"""`ftdoctor predictions`: what the model wrote at each step, on the terminal, as a page, or for a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ftdoctor_reports.predictions.tally import Job, Judged

LOST = 1
NOTHING = 3
SCHEMA = "ftdoctor.predictions/1"


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("--html", "html_path", metavar="FILE", help="Write a page of all steps, to be opened in a browser.")
@options.json_flag
@click.option("--job", "names", multiple=True, metavar="NAME", help="This job instead of the newest; repeatable.")
@click.option("--all-jobs", is_flag=True, help="Every job that is there.")
@click.option("--step", "steps", multiple=True, type=int, metavar="N", help="Only this step; repeatable.")
@click.option("--sample", "samples", multiple=True, type=int, metavar="N", help="Only this sample; repeatable.")
@click.option("--all", "every", is_flag=True, help="On the terminal all steps, rather than the last one.")
@click.option("--full", is_flag=True, help="Do not shorten texts.")
@click.option(
    "--width", type=click.IntRange(min=20), metavar="COLUMNS", help="Width of the table, rather than the terminal's."
)
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Show what the model predicted at each step, with what changed.

    SOURCE is what the run wrote: a SQLite file, a JSON Lines file, or the URL of a database. On the terminal stands
    the last step of the newest job, each prediction with its changes since the step before; --html and --json take
    all steps.

    Exit status: 0 shown, 1 all predictions of the last step shown have failed, 2 wrong usage or a source that cannot
    be read, 3 there are no predictions.
    """
    from ftdoctor.errors import NoPredictionsError
    from ftdoctor.prediction.reading import read_predictions
    from ftdoctor.prediction.rows import newest
    from ftdoctor_reports.predictions import tally

    try:
        jobs = tally.jobs(newest(read_predictions(chosen["source"])))
    except NoPredictionsError as error:
        click.echo(f"ftdoctor: {error}", err=True)
        ctx.exit(NOTHING)
    wanted = jobs if chosen["all_jobs"] else _named(jobs, chosen["names"]) or jobs[:1]
    shown = [part for job in wanted if (part := tally.only(job, chosen["steps"], chosen["samples"])).steps]
    _refuse_unknown(wanted, chosen["steps"], chosen["samples"], shown)
    if chosen["html_path"]:
        _write(Path(chosen["html_path"]), shown, chosen["source"])
    if chosen["as_json"]:
        _show_json(shown, jobs)
    elif chosen["html_path"]:
        click.echo(f"{shown[0].verdict()}; page: {chosen['html_path']}")
    else:
        _print(wanted, shown, jobs, chosen)
    ctx.exit(LOST if shown[0].lost else 0)


def _called(source: str) -> str:
    """Return a source without what may be secret in it."""
    from urllib.parse import urlsplit

    if "://" not in source:
        return Path(source).name
    url = urlsplit(source)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _named(jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """Return the jobs of these names, in the order of their age."""
    from ftdoctor.errors import UsageError
    from ftdoctor.wording import nearest, visible

    known = [job.name for job in jobs]
    for name in names:
        if name not in known:
            there = ", ".join(map(visible, known[:10]))
            raise UsageError(f"There is no job {name!r}{nearest(name, known)}; there are {there}.")
    return [job for job in jobs if job.name in names]


def _refuse_unknown(
    jobs: Sequence[Job], steps: Collection[int], samples: Collection[int], shown: Sequence[Job]
) -> None:
    """Raise for a step or sample that none of the jobs has, or that have nothing in common."""
    from ftdoctor.errors import UsageError

    known = {
        "step": {step.step for job in jobs for step in job.steps},
        "sample": {index for job in jobs for index in job.samples},
    }
    for kind, asked in (("step", steps), ("sample", samples)):
        for number in asked:
            if number not in known[kind]:
                raise UsageError(f"There are no predictions of {kind} {number}; there are of {_range(known[kind])}.")
    if not shown:
        raise UsageError("The samples that --sample names have no prediction at the steps that --step names.")


def _range(numbers: Collection[int]) -> str:
    few = sorted(numbers)
    return ", ".join(map(str, few)) if len(few) <= 10 else f"{', '.join(map(str, few[:5]))}, ... {few[-1]}"


def _write(path: Path, jobs: Sequence[Job], source: str) -> None:
    from ftdoctor.errors import UsageError
    from ftdoctor_reports import predictions

    file = Path(source.removeprefix("sqlite:///")).expanduser()
    if file.exists() and path.exists() and file.samefile(path):
        raise UsageError(f"The page {path} would replace the predictions themselves; name another file.")
    page = predictions.render(jobs, _called(source))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The page {path} cannot be written: {error.strerror}; name another file.") from error


def _show_json(shown: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Print rows with their numbers; ASCII, so that whatever a text holds can be printed and read back."""
    import json
    from dataclasses import asdict

    document = {
        "schema": SCHEMA,
        "jobs": [job.name for job in jobs],
        "steps": [{"job": job.name, **asdict(step)} for job in shown for step in job.steps],
        "rows": [_as_dict(one) for job in shown for history in job.samples.values() for one in history],
    }
    click.echo(json.dumps(document, indent=2))


def _as_dict(one: Judged) -> dict[str, Any]:
    return {**one.row.as_dict(), "exact": one.exact, "similarity": one.similarity}


def _print(wanted: Sequence[Job], shown: Sequence[Job], jobs: Sequence[Job], chosen: dict[str, Any]) -> None:
    from ftdoctor_reports.predictions import tally, terminal

    options.escape_the_rest()
    out = options.console()
    if chosen["width"]:
        out.width = chosen["width"]
    look = terminal.Look(
        out.width,
        marked=not out.is_terminal or out.no_color or out.color_system is None,
        ascii_only=options.plain(terminal.UNICODE),
        full=chosen["full"],
    )
    whole = {job.name: job for job in wanted}
    last_only = not (chosen["every"] or chosen["steps"])
    for part in shown:
        table = tally.only(part, {part.steps[-1].step}, ()) if last_only else part
        others = [job for job in jobs if job.name not in whole] if part is shown[0] else []
        out.print(terminal.render(whole[part.name], table, others, look))
