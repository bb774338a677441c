"""One and one is two."""

from ftdoctor.probe import probe


@probe(area="environment")
def healthy(bench, check):
    check.equal("sum", 1 + 1, 2)
