"""Takes a while."""

from ftdoctor.probe import probe


@probe(area="environment", axes=("family",))
def slow(bench, check):
    import time

    time.sleep(0.3)
    check.equal("seed", bench.settings.seed, 0)
