"""Says which accelerator it sees, and when."""

from ftdoctor.probe import probe


@probe(area="environment", axes=("family",))
def accelerated(bench, check):
    import os
    import time

    started = time.monotonic()
    time.sleep(0.2)
    check.equal("sees", True, True)
    check.note("gpu", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    check.note("from", f"{started}")
    check.note("to", f"{time.monotonic()}")
