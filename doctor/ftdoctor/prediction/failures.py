"""What is kept of a sample that could not be generated: enough to see whose fault it was."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import PurePath

from ftdoctor.wording import shorten

MESSAGE_LIMIT = 500
_PACKAGES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class SampleError:
    """Why there is no prediction for a sample."""

    kind: str
    """Class of the exception; empty where none was raised and generating was not tried."""
    message: str
    dtypes: str
    """How the weights are stored, the most frequent first: `nf4+float32`."""
    device: str
    autocast: str
    """Dtype of autocast, or `none`."""
    frame: str
    """Where it was raised: `torch/nn/modules/linear.py:134 in forward`."""

    def __str__(self) -> str:
        """Return it in one line."""
        said = f"{self.kind}: {self.message}" if self.kind else self.message
        where = f", at {self.frame}" if self.frame else ""
        return f"{said} (weights {self.dtypes}, on {self.device}, autocast {self.autocast}{where})"


def sample_error(error: BaseException, dtypes: str, device: str, autocast: str) -> SampleError:
    """Return what is kept of an exception, without a reference to it: its frames would keep tensors alive."""
    text = shorten(" ".join(str(error).split()), MESSAGE_LIMIT)
    return SampleError(type(error).__name__, text, dtypes, device, autocast, frame_of(error))


def frame_of(error: BaseException) -> str:
    """Return the raising frame, with its file from the installed package on, and the one above it in another file."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    caller = next((f for f in reversed(frames) if f.filename != last.filename), None)
    told = f"{_file(last.filename)}:{last.lineno} in {last.name}"
    return told + (f", called from {_file(caller.filename)}:{caller.lineno}" if caller else "")


def _file(name: str) -> str:
    """Return a path without the folders above the package, which are the user's own affair."""
    parts = PurePath(name).parts
    for folder in _PACKAGES:
        if folder in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(folder) :])
    return "/".join(parts[-2:])
