"""Sends evidence without end."""

from ftdoctor.probe import probe


@probe(area="environment")
def floods(bench, check):
    for i in range(100_000):
        check.note(f"note {i}", "x" * 390)
