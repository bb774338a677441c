"""What a run leaves in a step of GitHub Actions: a log that runs no command, annotations, and the job's summary."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ftdoctor.results import Run

SUMMARY = "GITHUB_STEP_SUMMARY"


@contextlib.contextmanager
def guarded(stream: TextIO) -> Iterator[None]:
    """Keep GitHub's runner from taking what is written in between for its commands; elsewhere do nothing."""
    from ftdoctor_reports import github

    if not github.in_actions(os.environ):
        yield
        return
    token = github.new_token()
    click.echo(github.stop_commands(token), file=stream, nl=False)
    try:
        yield
    finally:
        stream.flush()
        click.echo(github.resume_commands(token), file=stream, nl=False)


def leave(run: Run, stream: TextIO) -> None:
    """Write annotations to the log and the run to the job's summary; outside of Actions do nothing."""
    from ftdoctor_reports import github

    if not github.in_actions(os.environ):
        return
    for line in github.annotations(run):
        click.echo(line, file=stream)
    path = os.environ.get(SUMMARY)
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - also a device
            file.write(github.summary(run))
    except OSError as error:
        click.echo(f"ftdoctor: the job's summary could not be written ({error.strerror}).", err=True)
