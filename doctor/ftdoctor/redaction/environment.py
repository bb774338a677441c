"""The values of environment variables that look secret, in every form in which they may stand in a text."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

import ftdoctor_matrix as matrix
from ftdoctor.redaction import assigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SHORTEST = 6
"""Shorter values stand in too many texts by chance."""
PLAIN_WORD = 12
"""Letters that a value of letters alone must have: shorter ones are words."""
USERINFO = re.compile(r"://(?P<user>[^\s:/@]*):(?P<password>[^\s/]+)@")


def is_called_secret(name: str) -> bool:
    """Say whether a variable has the name of a secret."""
    known, words = matrix.private(), assigned.words_of(name)
    if name.upper() in known.harmless or not known.environment & {*words}:
        return False
    return not known.of_text & {*words} or assigned.strength(name) > 0


def known(environ: Mapping[str, str], kind: Callable[[str, str], str]) -> tuple[tuple[str, str], ...]:
    """Return the secrets of an environment in all their forms with their kinds, the longest first."""
    found: dict[str, str] = {}
    for name, value in environ.items():
        for secret in _secrets(name, value):
            called = kind(secret, name)
            for form in _forms(secret):
                found.setdefault(form, called)
    return tuple(sorted(found.items(), key=lambda item: (-len(item[0]), item[0])))


def _secrets(name: str, value: str) -> Iterator[str]:
    for found in USERINFO.finditer(value):
        if not _is_ordinary(found["password"]):
            yield found["password"]
            yield unquote(found["password"])
    if "://" not in value and is_called_secret(name) and not _is_ordinary(value):
        yield value.strip()
        lines = [line.strip() for line in value.splitlines()]
        yield from (line for line in lines if len(line) >= 16 and not line.startswith("-----"))


def _is_ordinary(value: str) -> bool:
    """Say whether a value would be found in many texts: short, a number, a path, a word."""
    text = value.strip()
    return (
        len(text) < SHORTEST
        or assigned.says_nothing(text)
        or (len(text) < PLAIN_WORD and text.isalpha())
        or text.lower() in matrix.private().common
        or (len(text) < PLAIN_WORD and any(c.isspace() for c in text))
    )


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield html.escape(secret, quote=False)
    yield from _in_base64(secret.encode("utf-8", "replace"))


def _in_base64(secret: bytes) -> Iterator[str]:
    """Yield what base64 makes of the bytes wherever they begin in what is encoded, as in `user:password`."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode()
        kept = encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        if len(kept) >= 10:
            yield kept
            yield kept.translate(str.maketrans("+/", "-_"))
