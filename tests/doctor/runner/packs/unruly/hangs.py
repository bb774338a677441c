"""Never ends."""

from ftdoctor.probe import probe


@probe(area="environment")
def hangs(bench, check):
    import time

    while True:
        time.sleep(60)
