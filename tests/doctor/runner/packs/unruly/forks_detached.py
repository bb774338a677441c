"""Leaves a process behind in a session of its own."""

from ftdoctor.probe import probe


@probe(area="environment")
def forks_detached(bench, check):
    import os
    import time

    check.equal("before", 1, 1)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
