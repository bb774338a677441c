"""Changes the global state of its process."""

from ftdoctor.probe import probe


@probe(area="environment")
def pollutes(bench, check):
    import os
    import random

    check.equal("seeded draw", random.random(), 0.8444218515250481)
    check.equal("environment", os.environ.get("POLLUTED", ""), "")
    os.environ["POLLUTED"] = "1"
    random.seed(1)
