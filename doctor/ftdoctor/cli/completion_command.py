"""`ftdoctor completion`: the script that makes a shell complete commands, options, probes and cells."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for a shell.

    For bash, for example: eval "$(ftdoctor completion bash)"
    """
    from click.shell_completion import get_completion_class

    from ftdoctor.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    # The script of bash asks bash for its version; write it without that, for a machine that has no bash.
    script = kind(cli, {}, "ftdoctor", "_FTDOCTOR_COMPLETE")
    click.echo(script.source_template % script.source_vars())
