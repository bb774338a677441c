"""Checks nothing."""

from ftdoctor.probe import probe


@probe(area="environment")
def measures_nothing(bench, check):
    return
