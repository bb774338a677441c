"""`ftdoctor list`: what can be examined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli.options import console, json_flag, show_json

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
@click.option("--axes", is_flag=True, help="List the axes and their values instead.")
@click.option("--profiles", is_flag=True, help="List the profiles instead.")
@json_flag
def command(axes: bool, profiles: bool, as_json: bool) -> None:
    """List the probes, by area, each with its promise."""
    rows = _axes() if axes else _profiles() if profiles else _probes()
    if as_json:
        show_json(rows)
    else:
        _print([*rows, *(_never() if axes else [])], heading="area" if not (axes or profiles) else "")


def _probes() -> list[dict[str, Any]]:
    from ftdoctor import registry

    return [
        {
            "area": p.area,
            "name": p.name,
            "text": p.promise,
            "axes": list(p.axes),
            "needs": list(p.needs),
            "faults": len(p.faults),
        }
        for p in registry.probes().values()
    ]


def _axes() -> list[dict[str, Any]]:
    import ftdoctor_matrix as matrix

    return [
        {"name": a.name, "text": f"{a.summary}: {', '.join(a.values)}", "values": list(a.values)}
        for a in matrix.axes().values()
    ]


def _never() -> list[dict[str, Any]]:
    """Return the combinations that are not planned, for a person."""
    import ftdoctor_matrix as matrix

    def told(cell: Mapping[str, tuple[str, ...]]) -> str:
        return " ".join(f"{axis}={','.join(values)}" for axis, values in cell.items())

    return [{"name": "never planned", "text": f"{told(e.cell)}: {e.why}"} for e in matrix.impossible()]


def _profiles() -> list[dict[str, Any]]:
    import ftdoctor_matrix as matrix

    return [{"name": p.name, "text": p.summary} for p in matrix.profiles().values()]


def _print(rows: list[dict[str, Any]], heading: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    width = max(len(row["name"]) for row in rows)
    shown = ""
    for row in rows:
        if heading and row[heading] != shown:
            shown = row[heading]
            out.print(f"\n[bold]{shown}[/bold]" if row is not rows[0] else f"[bold]{shown}[/bold]")
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=width, no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(f"  {row['name']}" if heading else row["name"], escape(row["text"]))
        line.columns[0].width = width + 2 if heading else width
        out.print(line)
