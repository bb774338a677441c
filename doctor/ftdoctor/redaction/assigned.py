"""Secrets that are known by the name before them: `password=...`, `"api_key": "..."`, `--token ...`."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import ftdoctor_matrix as matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYWORDS = ("pass", "pwd", "secret", "token", "key", "auth", "credential", "dsn", "cookie", "signature", "webhook")
GAP = r"(?:\s|\x1b\[[0-9;]{0,12}m|%20|\+){0,4}"
"""A space, also in a URL; the colours of a terminal go between."""
QUOTE = r"\\{0,7}(?:\"{3}|'{3}|[\"']|&(?:quot|apos|\#39|\#34|\#x27|\#x22);|%2[27])"
"""A quotation mark, as source, JSON in JSON, HTML and URLs write it."""
NAMED = re.compile(
    rf"""(?ix)
    (?P<word> pass(?:word|wd|phrase)? | pwd | secrets? | token | key(?:[_-]?id)? | auth
    | credentials? | dsn | cookie | signature | webhook )
    (?: (?P<flag>\s{{1,3}}) | {GAP}(?P<close>{QUOTE})?\]?{GAP}(?P<sign>=>|:=|[:=](?!=)|%3[AD]|,(?=\s?[bru]?["']))
        (?P<space>{GAP}(?:[|>][+-]?\s{{1,20}})?) )
    (?: [bru]?(?P<quote>{QUOTE})(?P<quoted>(?:(?!\\{{0,7}}(?P=quote))[^\n]){{1,4000}})
      | (?P<bare>[^\s"'<>`]{{3,2000}}) )
    """,
)
NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}\Z")
JOINT = re.compile(r"\x1b\[[0-9;]{0,12}m|%[0-9A-Fa-f]{2}|\\{1,4}[nrt]")
"""What ends a word before a name although it ends with a letter or digit: a colour, an escaped sign."""
DECLARES = re.compile(r"(?:\b(?:setenv|ENV)|\bset -[a-z]{1,3})\s{1,3}\Z")
"""What makes the word behind a name its value, as in a Dockerfile and in other shells."""
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
CODE = re.compile(r"[A-Za-z_][\w.]*[(\[]|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:,|\Z)|[(\[{$%*]")
"""A call, an index, an attribute, a literal, a reference to a variable: source code, and no secret."""
REFERENCE = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\$[A-Z_]+|%\(?\w*\)?[sdr]|\{[\w.!:]*\}")
"""What stands in a template for a value."""
PATH = re.compile(r"(?:[A-Za-z]:)?[./~\\]{0,2}[/\\]|[\w-]+\.(?:json|txt|pem|toml|ya?ml|cfg|py)\Z")
NUMBER = re.compile(r"[-+]?[0-9._,:eE+-]*\Z")
NAMES = re.compile(r"[\w-]+(?:[./][\w.-]+)+\Z")
"""An attribute, the name of a model, a relative path."""
UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
RANDOM = re.compile(r"[A-Za-z0-9_+/=.~:-]{16,}\Z", re.ASCII)
ELLIPSIS = re.compile(r"\.\.\.|\*\*\*|…")
SHORT = 8
"""Fewer letters and digits than these beside an ellipsis stand for a secret in a text about secrets."""
WORDS_OF_A_PHRASE = 6


def may_hold(lower: str) -> bool:
    """Say whether a text (in small letters) may name a secret; fast."""
    return any(word in lower for word in KEYWORDS)


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield where secrets stand in a text and what they are."""
    place = 0
    while found := NAMED.search(text, place):
        group = "quoted" if found["quoted"] else "bare"
        place = found.start(group)
        before = JOINT.sub(" ", text[max(0, found.start() - 100) : found.start()]) + found["word"]
        name = NAME.search(before)
        if name is None or (found["flag"] and not _takes_a_value(name[0], before[: name.start()])):
            continue
        value = found[group].rstrip(",;)]}.:") if group == "bare" else found[group]
        if _is_secret(name[0], found, value):
            yield place, place + len(value), "password" if _is_password(name[0]) else "secret value"
            place += len(value)


def _takes_a_value(name: str, before: str) -> bool:
    """Say whether the word behind this name is its value: `--token ...`, `ENV TOKEN ...`."""
    return name.startswith("--") or (name.isupper() and DECLARES.search(before) is not None)


def _last(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-")


@functools.lru_cache(4096)
def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in small letters: `apiKey`, `API_KEY` and `api-key` have the same."""
    last = _last(name)
    parts = last if last.isupper() else CAMEL.sub("_", last)
    return tuple(part for part in re.split(r"[_-]+", parts.lower()) if part)


@functools.lru_cache(4096)
def strength(name: str) -> int:
    """Say whether what a name holds is secret: 0 no, 1 where it looks secret, 2 whatever it looks like."""
    known, words = matrix.private(), words_of(name)
    if not words or _last(name) in known.harmless or (words[-1] in ("token", "key") and known.of_text & {*words[:-1]}):
        return 0
    ends = {"_".join(words[-number:]) for number in (1, 2, 3)}
    if ends & known.strong or words[-1].endswith(("password", "passwd")):
        return 2
    return 1 if ends & known.weak or (_last(name).isupper() and words[-1] in known.environment) else 0


def _is_password(name: str) -> bool:
    return words_of(name)[-1].startswith(("pass", "pwd")) or words_of(name)[-1].endswith("password")


def says_nothing(value: str) -> bool:
    """Say whether a value is a number, a path or a word that is no secret, or has been taken out."""
    bare = value.strip().lower()
    known = matrix.private().ordinary
    return (
        len(bare) < 3
        or bare in known
        or bare.partition("=")[0] in known
        or bool(NUMBER.match(bare) or (PATH.match(value) and not _is_base64(value)))
        or value.startswith(("<", "***", "..."))
        or (ELLIPSIS.search(value) is not None and sum(c.isalnum() for c in value) < SHORT)
    )


def _is_base64(value: str) -> bool:
    kinds = ("[a-z]", "[A-Z]", "[0-9]", r"\A[A-Za-z0-9+/=]{24,}\Z")
    return all(re.search(kind, value) for kind in kinds)


def looks_random(value: str) -> bool:
    """Say whether a value is long, without spaces, and of letters and digits; no attribute, path or UUID."""
    return bool(
        RANDOM.match(value)
        and re.search("[0-9]", value)
        and re.search("[A-Za-z]", value)
        and not NAMES.match(value)
        and not UUID.match(value)
        and "://" not in value
    )


def _is_secret(name: str, found: re.Match[str], value: str) -> bool:
    sure = strength(name)
    if not sure or says_nothing(value) or value == _last(name) or strength(value):
        return False
    shouted = _last(name).isupper()
    listed = shouted and bool(found["sign"]) and not found["space"]  # as in a listing of the environment
    if REFERENCE.fullmatch(value) if found["quoted"] or listed else CODE.match(value):
        return False
    return (_in_a_pair if found["sign"] == "," else _behind_a_sign)(name, found, value, sure)


def _in_a_pair(name: str, found: re.Match[str], value: str, sure: int) -> bool:
    """Say whether what stands behind a name and a comma is its value, and not the next of several words."""
    asked = sure == 2 or name.startswith("--")
    return found["close"] is not None and (looks_random(value) or (asked and _is_mixed(value)))


def _behind_a_sign(name: str, found: re.Match[str], value: str, sure: int) -> bool:
    shouted = _last(name).isupper()
    if sure == 1:
        return looks_random(value) or (shouted and _is_mixed(value))
    if found["quoted"]:
        return " " not in value or (_is_password(name) and len(value.split()) <= WORDS_OF_A_PHRASE)
    digits = re.search("[0-9]", value) is not None
    if found["space"] or found["sign"] == ":":
        return len(value) >= 6 and (digits or re.search(r"[^\w.]", value) is not None)
    return _is_password(name) or digits or shouted


def _is_mixed(value: str) -> bool:
    """Say whether a value is of letters and digits, and long enough for a secret."""
    return len(value) >= 8 and re.search("[0-9]", value) is not None and value.lower() != value.upper()
