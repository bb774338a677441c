"""Reads address zero."""

from ftdoctor.probe import probe


@probe(area="environment")
def segfaults(bench, check):
    import ctypes

    check.equal("before", 1, 1)
    ctypes.string_at(0)
