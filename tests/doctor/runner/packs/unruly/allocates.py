"""Takes memory without end."""

from ftdoctor.probe import probe


@probe(area="environment")
def allocates(bench, check):
    kept = []
    while True:
        kept.append(bytearray(b"x") * (16 * 1024**2))
