"""Prints a gigabyte."""

from ftdoctor.probe import probe


@probe(area="environment")
def prints(bench, check):
    import os

    line = b"x" * 1023 + b"\n"
    for _ in range(1024 * 1024):
        os.write(1, line)
