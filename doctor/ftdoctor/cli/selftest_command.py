"""`ftdoctor selftest`: is the doctor awake?"""

from __future__ import annotations

from typing import Any

import click

from ftdoctor.cli import options


@click.command()
@options.probe_option
@options.jobs_option
@options.timeout_option
@options.json_flag
@options.no_redact_flag
@click.pass_context
def command(
    ctx: click.Context,
    probes: tuple[str, ...],
    jobs: int | None,
    timeout: float | None,
    as_json: bool,
    no_redact: bool,
) -> None:
    """Put every fault into the stack, each in a process of its own, and see whether its probe catches it.

    Each cell that a fault uses is also examined without it: a probe that is red then proves nothing.

    Exit status: 0 every fault was caught, 1 one was missed or a probe is red without a fault, 3 nothing ran.
    """
    from ftdoctor import registry
    from ftdoctor.cli.formats import redactor
    from ftdoctor.request import Request
    from ftdoctor.results import encode
    from ftdoctor.selftest import trials

    request = Request(
        probes=registry.choose(probes) if probes else registry.probes(),
        jobs=jobs or 0,
        timeout=timeout or 0.0,
    )
    out, clean = options.console(stderr=as_json), redactor(no_redact)
    found = [clean.record(trial) for trial in trials(request, lambda trial: _line(out, clean.record(trial)))]
    if as_json:
        options.show_json([{**encode(t), "ok": t.ok} for t in found])
    _summary(out, found)
    ran = [t for t in found if t.verdict != "skipped"]
    ctx.exit(3 if not ran else 0 if all(t.ok for t in ran) else 1)


def _line(out: Any, trial: Any) -> None:
    from rich.text import Text

    style = {"caught": "green", "clean": "green", "skipped": "dim"}.get(trial.verdict, "bold red")
    detail = f": {trial.detail}" if trial.detail and trial.verdict not in ("caught", "clean") else ""
    out.print(Text.assemble((f"{trial.verdict:<8}", style), f" {trial.probe}  {trial.fault}{detail}"))


def _summary(out: Any, found: list[Any]) -> None:
    from ftdoctor.wording import count

    faults = [t for t in found if t.verdict in ("caught", "missed")]
    caught = sum(t.ok for t in faults)
    red = [t for t in found if t.verdict == "red without a fault"]
    skipped = sum(t.verdict == "skipped" for t in found)
    out.print(
        f"\n{caught} of {count(len(faults), 'fault')} caught, "
        f"{count(len(red), 'probe')} red without a fault, {skipped} skipped"
    )
