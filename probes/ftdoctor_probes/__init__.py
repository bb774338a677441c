"""The shipped probes: one file, one promise; found by entry point as anyone's would be."""
