"""`ftdoctor env`: what stands here, from metadata and the driver alone, so that a broken stack can be told."""

from __future__ import annotations

import click

from ftdoctor.cli.options import console, json_flag, no_redact_flag, show_json


@click.command()
@json_flag
@no_redact_flag
def command(as_json: bool, no_redact: bool) -> None:
    """Show the machine and the versions of the stack; imports none of them."""
    import ftdoctor_matrix as matrix
    from ftdoctor import __version__, machine
    from ftdoctor.cli.formats import redactor

    facts = redactor(no_redact).data(machine.examine())
    order = matrix.libraries().order
    stack = machine.stack(order)
    if as_json:
        show_json({"ftdoctor": __version__, "machine": facts, "stack": stack})
        return
    rows = [("ftdoctor", __version__), *machine.describe(facts)]
    rows += [(name, stack.get(name, "not installed")) for name in order]
    out = console()
    width = max(len(label) for label, _ in rows) + 2
    for label, text in rows:
        out.print(f"{label:<{width}}{text}", markup=False)
