"""`ftdoctor explain`: the documentation of a probe, from its own file."""

from __future__ import annotations

import click

from ftdoctor.cli.options import complete_probe, console, json_flag, show_json


@click.command()
@click.argument("probe", shell_complete=complete_probe)
@json_flag
def command(probe: str, as_json: bool) -> None:
    """Explain a probe: its promise, why it matters, the cure, and the faults that it catches."""
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
    out.print(found.document, markup=False)
    out.print()
    for label, values in (
        ("needs", found.needs),
        ("varies", [f"{a} ({', '.join(v)})" if (v := found.only.get(a)) else a for a in found.axes]),
        ("catches", [f.name for f in found.faults]),
        ("see", found.references),
    ):
        for i, value in enumerate(values):
            out.print(f"{label if i == 0 else '':<9}{value}", markup=False)
