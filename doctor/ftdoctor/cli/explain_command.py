"""`ftdoctor explain`: the documentation of a probe, from its own file."""

from __future__ import annotations

import click

from ftdoctor.cli.options import complete_probe, console, json_flag, show_json


@click.command()
@click.argument("probe", shell_complete=complete_probe)
@json_flag
def command(probe: str, as_json: bool) -> None:
    """Explain a probe: its promise, why it matters, the cure, and the faults that it catches."""
    from rich.table import Table
    from rich.text import Text

    from ftdoctor import registry
    from ftdoctor.errors import UsageError
    from ftdoctor.wording import nearest

    known = registry.probes()
    if probe not in known:
        raise UsageError(f"There is no probe {probe!r}{nearest(probe, known)}; see `ftdoctor list`.")
    found = known[probe]
    facts = {
        "name": found.name,
        "area": found.area,
        "document": found.document,
        "needs": list(found.needs),
        "axes": {axis: list(found.only.get(axis, ())) or "all values" for axis in found.axes},
        "faults": [{"name": f.name, "catches": list(f.catches)} for f in found.faults],
        "references": list(found.references),
    }
    if as_json:
        show_json(facts)
        return
    out = console()
    out.print(f"[bold]{found.name}[/bold]  ({found.area})\n")
    for paragraph in found.document.split("\n\n"):
        out.print(" ".join(paragraph.split()) + "\n", markup=False)
    varied = [f"{a} ({', '.join(v)})" if (v := found.only.get(a)) else a for a in found.axes]
    table = Table.grid(padding=(0, 2))
    for label, text in (
        ("needs", ", ".join(found.needs)),
        ("varies", ", ".join(varied)),
        ("catches", "\n".join(f.name for f in found.faults)),
        ("see", "\n".join(found.references)),
    ):
        if text:
            table.add_row(label, Text(text))
    out.print(table)
