"""Raises an exception from another one that a library raised."""

from ftdoctor.probe import probe


@probe(area="environment")
def chains(bench, check):
    import click

    try:
        click.IntRange(min=1).convert("x", None, None)
    except click.BadParameter as error:
        raise RuntimeError("wrapped") from error
