"""Raises SystemExit."""

from ftdoctor.probe import probe


@probe(area="environment")
def leaves(bench, check):
    raise SystemExit(0)
