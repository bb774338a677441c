"""The errors that ftdoctor raises on purpose.

    FtdoctorError (ValueError)
    ├── UsageError       the command line or a call names something that does not exist
    ├── ConfigError      a configuration file says something that ftdoctor does not understand
    ├── MatrixError      an axis, profile or family in a TOML file contradicts itself
    ├── ProbeError       a probe or a fault is declared wrongly
    ├── ModelError       the user's model cannot be examined as asked
    ├── JournalError     a journal cannot be resumed
    ├── TrainingError    a training component cannot do what it was asked
    │   ├── DataError        rows or files that cannot be trained on
    │   ├── LoadError        a stage of loading a model failed
    │   └── NonFiniteError   too many steps were lost to NaN or infinity
    └── PredictionError  sample predictions cannot be made, written or read as asked
        └── NoPredictionsError  there is a place for them, and nothing in it yet

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


class TrainingError(FtdoctorError):
    """A training component cannot do what it was asked."""


class DataError(TrainingError):
    """Rows or files that cannot be trained on."""


class LoadError(TrainingError):
    """A stage of loading a model failed.

    Attributes:
        stage: `config`, `tokenizer`, `model`, `memory`, `quantization`, `preparation` or `adapter`.
    """

    def __init__(self, message: str, stage: str = "") -> None:
        super().__init__(message)
        self.stage = stage


class NonFiniteError(TrainingError):
    """Too many steps were lost to NaN or infinity."""


class PredictionError(FtdoctorError):
    """Sample predictions cannot be made, written or read as asked."""


class NoPredictionsError(PredictionError):
    """There is a file or table of predictions, and nothing in it yet."""
