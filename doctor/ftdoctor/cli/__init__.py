"""The command line: one file a command. Nothing here imports a library of the stack."""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from ftdoctor import __version__
from ftdoctor.cli.streams import silence
from ftdoctor.errors import FtdoctorError

COMMANDS = {
    "check": "Examine this machine and its fine-tuning stack.",
    "report": "Render a run again: HTML, Markdown, JUnit, JSON, or on the terminal.",
    "diff": "Compare two runs: before and after an upgrade, or two machines.",
    "list": "List the probes, axes or profiles.",
    "explain": "Explain a probe: its promise, why it matters, the cure, its faults.",
    "env": "Show the machine and the versions of the stack, without importing it.",
    "train": "Fine-tune an adapter on a JSON Lines file, with every component hardened.",
    "inbox": "Train each JSONL file that is put into a folder.",
    "predictions": "Show what the model predicted during training, step by step.",
    "selftest": "Put every fault into the stack and see whether its probe catches it.",
    "completion": "Print the completion script for a shell.",
}


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class Commands(click.Group):
    """Imports the file of a command only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `cli/<name>.py` and return its command; an unknown name is answered by click."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ftdoctor.cli.{cmd_name}_command")
        return module.command  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, naming the nearest one where there is none of that name."""
        from ftdoctor.wording import nearest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}{nearest(args[0], COMMANDS)}; see ftdoctor --help.")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="ftdoctor")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Say whether this machine and these library versions will fine-tune correctly.

    Exit status: 0 healthy, 1 findings, 2 wrong usage, 3 nothing could be examined.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line; a user's mistake is one sentence on standard error and exit status 2."""
    try:
        status = cli.main(standalone_mode=False, prog_name="ftdoctor")
    except click.ClickException as error:
        fail(error.format_message())
    except FtdoctorError as error:
        fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        _leave_the_reader()
    except SystemExit as leaving:  # how rich leaves
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        _leave_the_reader()
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename:
            raise
        silence(sys.stdout)
        fail(f"What this command shows could not be written: {error.strerror}.")
    sys.exit(status if isinstance(status, int) else 0)


def _leave_the_reader() -> NoReturn:
    """Leave as a program does whose reader has left."""
    silence(sys.stdout)
    sys.exit(141)


def fail(sentence: str) -> Any:
    """Print one sentence on standard error and leave with exit status 2; it may quote what steers a terminal."""
    from ftdoctor.wording import visible

    with contextlib.suppress(OSError):  # nobody is left to be told
        click.echo(f"ftdoctor: {visible(sentence)}", err=True)
    sys.exit(2)
