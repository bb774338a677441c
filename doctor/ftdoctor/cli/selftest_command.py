"""`ftdoctor selftest`: is the doctor awake?"""

from __future__ import annotations

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
    from ftdoctor.cli import actions
    from ftdoctor.cli.formats import redactor
    from ftdoctor.cli.screen import Screen
    from ftdoctor.request import Request
    from ftdoctor.results import encode
    from ftdoctor.selftest import trials
    from ftdoctor_reports import tally

    request = Request(
        probes=registry.choose(probes) if probes else registry.probes(),
        jobs=jobs or 0,
        timeout=timeout or 0.0,
    )
    screen, clean = Screen(quiet=False, to_stderr=as_json), redactor(no_redact)
    with actions.guarded(screen.stream):
        found = [clean.record(t) for t in trials(request, lambda trial: screen.trial(clean.record(trial)))]
    if as_json:
        options.show_json([{**encode(t), "ok": t.ok} for t in found])
    screen.say(f"\n{tally.selftest(found)}")
    ran = [t for t in found if t.verdict != "skipped"]
    ctx.exit(3 if not ran else 0 if all(t.ok for t in ran) else 1)
