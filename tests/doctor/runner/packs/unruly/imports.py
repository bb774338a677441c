"""Says whether it is alone in its interpreter."""

from ftdoctor.probe import probe


@probe(area="environment", fresh=True)
def imports(bench, check):
    import sys

    check.equal("fresh", "this" in sys.modules, False)
