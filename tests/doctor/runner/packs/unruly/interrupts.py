"""Interrupts its own process group."""

from ftdoctor.probe import probe


@probe(area="environment")
def interrupts(bench, check):
    import os
    import signal
    import time

    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(10)
