"""A whole run inside its own page: whoever has the page can render it anew, or compare it with another one."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import FtdoctorError
from ftdoctor.results import dumps

if TYPE_CHECKING:
    from ftdoctor.results import Run

ID = "ftdoctor-run"
TYPE = "application/x-ftdoctor-run"
"""No script type, so that a browser neither runs nor shows it."""
LIMIT = 256 * 1024**2
"""Bytes of JSON; what unpacks to more is no report of ours."""

_BLOCK = re.compile(f'<script[^>]*id="{ID}"[^>]*>([A-Za-z0-9+/=\\s]*)</script>')


def pack(run: Run) -> str:
    """Return the document of a run as text that may stand anywhere in a page: compressed, in base64."""
    text = dumps(run, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(page: str) -> Any:
    """Return the document that stands in a page, as parsed JSON.

    Raises:
        FtdoctorError: there is none, or it was cut off or changed.
    """
    found = _BLOCK.search(page)
    if found is None:
        raise FtdoctorError("this page holds no run of ftdoctor")
    try:
        machine = zlib.decompressobj()
        data = machine.decompress(base64.b64decode(found[1]), LIMIT)
        if not machine.eof:
            raise FtdoctorError("the run in this page is cut off or larger than any of ours")
        return json.loads(data)
    except (ValueError, zlib.error) as error:
        raise FtdoctorError(f"the run in this page cannot be read: {error}") from error
