"""Leaves a process behind."""

from ftdoctor.probe import probe


@probe(area="environment")
def forks(bench, check):
    import subprocess

    check.equal("before", 1, 1)
    subprocess.Popen(["sleep", "1000"])
