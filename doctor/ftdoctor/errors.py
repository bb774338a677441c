"""The errors that ftdoctor raises on purpose.

    FtdoctorError (ValueError)
    ├── UsageError       the command line or a call names something that does not exist
    ├── ConfigError      a configuration file says something that ftdoctor does not understand
    ├── MatrixError      an axis, profile or family in a TOML file contradicts itself
    ├── ProbeError       a probe or a fault is declared wrongly
    ├── ModelError       the user's model cannot be examined as asked
    └── JournalError     a journal cannot be resumed

Each message is one sentence that says what is wrong, where, and the way out.
"""


class FtdoctorError(ValueError):
    """A mistake that the user can mend; the command line prints it without a traceback."""


class UsageError(FtdoctorError):
    """The command line or a call names something that does not exist."""


class ConfigError(FtdoctorError):
    """A configuration file says something that ftdoctor does not understand."""


class MatrixError(FtdoctorError):
    """An axis, profile or family in a TOML file contradicts itself."""


class ProbeError(FtdoctorError):
    """A probe or a fault is declared wrongly."""


class ModelError(FtdoctorError):
    """The user's model cannot be examined as asked."""


class JournalError(FtdoctorError):
    """A journal cannot be resumed."""
