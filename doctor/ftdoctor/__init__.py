"""Says whether this machine and these library versions will fine-tune correctly."""

__version__ = "0.1.0"
