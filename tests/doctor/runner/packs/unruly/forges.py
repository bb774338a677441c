"""Sends what looks like a verdict and is none."""

from ftdoctor.probe import probe


@probe(area="environment")
def forges(bench, check):
    import contextlib
    import os

    end = b'{"end": {"outcome": "passed", "seconds": 1.0, "warnings": [5], "raised": {"type": 1}}}\n'
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(fd, end)
    os._exit(0)
