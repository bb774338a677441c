"""The report as JSON: the one truth from which every other form is rendered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ftdoctor.results import Run, decode, encode

if TYPE_CHECKING:
    from pathlib import Path


def render(run: Run) -> str:
    """Return the run as indented JSON text, non-ASCII kept."""
    return json.dumps(encode(run), indent=1, ensure_ascii=False)


def load(path: Path) -> Run:
    """Read a report back.

    Raises:
        FtdoctorError: the file is not a report of ftdoctor.
    """
    from ftdoctor.errors import FtdoctorError

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FtdoctorError(f"{path} is not a report of ftdoctor: {error}.") from error
    return decode(Run, data)
