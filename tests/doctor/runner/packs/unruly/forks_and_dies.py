"""Leaves a process behind and dies."""

from ftdoctor.probe import probe


@probe(area="environment")
def forks_and_dies(bench, check):
    import os
    import subprocess

    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.abort()
