"""The bench: what a probe works on. It builds what the cell asks for and owns a temporary folder."""

from ftdoctor.bench.bench import Bench

__all__ = ["Bench"]
