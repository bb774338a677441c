"""`ftdoctor inbox`: a folder that trains what is put into it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ftdoctor.training.inbox import Inbox
    from ftdoctor.training.jobs import Train


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Train what is there and end, rather than wait for more.")
@click.option("--online", is_flag=True, help="Allow the hub to be asked for the model.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
@click.pass_context
def command(ctx: click.Context, folder: Path, once: bool, online: bool, quiet: bool) -> None:
    """Train each JSONL file that is put into DIR/inbox by the recipe in DIR/config.toml.

    One at a time, oldest first. The adapter goes to DIR/adapters, the file to DIR/archive or, with the reason beside
    it, to DIR/failed. Killed at any point and started again, it loses nothing and trains nothing twice. SIGTERM and
    Ctrl-C end it after the current step, with a checkpoint.

    Exit status: 0 done or asked to stop, 1 a file failed (with --once), 2 wrong usage or a recipe that cannot be
    trained by, 130 interrupted.
    """
    from ftdoctor.cli.training import require_stack
    from ftdoctor.errors import UsageError
    from ftdoctor.training.inbox import Inbox

    inbox = Inbox(folder, _train(quiet), _silent if quiet else _tell)
    require_stack()
    if online:
        os.environ["HF_HUB_OFFLINE"] = "0"
    with _stopped_by_signals(inbox, quiet) as received:
        try:
            failed = inbox.run(once=once)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise UsageError(f"{where}{error.strerror}; what was begun goes on at the next start.") from error
    if signal.SIGINT in received:
        ctx.exit(130)
    ctx.exit(1 if once and failed else 0)


def _train(quiet: bool) -> Train:
    """Return the training of `ftdoctor train`, with its progress; the stack is imported with the first file."""
    from ftdoctor.cli.training import Screen, train

    screen = Screen(options.console(stderr=True), quiet)

    def shown(recipe: Any, dataset: Path, folder: Path, *, earlier: Any, stop: Any) -> Any:
        with screen.progress() as progress:
            return train(recipe, dataset, folder, earlier, stop, progress)

    return shown


@contextlib.contextmanager
def _stopped_by_signals(inbox: Inbox, quiet: bool) -> Iterator[list[int]]:
    """Have SIGTERM and SIGINT end the inbox after the current step, and a second one at once."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if received:
            os._exit(128 + number)  # as safe as being killed, which is possible at any point
        received.append(number)
        inbox.stop()
        if not quiet:
            os.write(2, b"inbox: stopping after the current step; once more for at once\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(line: str) -> None:
    from ftdoctor.wording import visible

    click.echo(f"inbox: {visible(line)}", err=True)


def _silent(line: str) -> None:
    pass
