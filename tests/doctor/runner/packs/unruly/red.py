"""One and one is three."""

from ftdoctor.probe import probe


@probe(area="environment")
def red(bench, check):
    check.equal("sum", 1 + 1, 3)
