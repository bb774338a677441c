"""Never ends and holds the interpreter."""

from ftdoctor.probe import probe


@probe(area="environment")
def spins(bench, check):
    while True:
        pass
