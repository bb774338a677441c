"""Takes out of texts, of data and of whole runs what must not be written."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ftdoctor.cells import Cell
from ftdoctor.redaction.addresses import ADDRESS, KIND, URL, is_public, names_an_address
from ftdoctor.redaction.assigned import says_nothing
from ftdoctor.redaction.environment import is_called_secret
from ftdoctor.redaction.secrets import TAKEN_OUT, Secrets, placeholder
from ftdoctor.results import LabelMask, Redaction, Run, names_of

if TYPE_CHECKING:
    from ftdoctor.redaction.addresses import Addresses
    from ftdoctor.redaction.people import People

Record = TypeVar("Record")

SHORTEST = 3
"""Characters that a text must have for something to be found in it."""
PLACEHOLDER = re.compile(r"<redacted: [^<>]*>|<user>|<host>|<private address>|~")

NAMED = ("environment", "configuration")
"""Fields of a run in which the names of values say whether they are secret."""
PLAIN = ("stack", "installed", "version", "ftdoctor", "schema", "started", "outcome", "verdict", "mode", "profile")
"""Fields of our own words and of versions, some of which look like an address: only secrets are looked for in them."""


@dataclass(frozen=True)
class Redactor:
    """What is taken out: secrets, and where they are given, names of people and machines, and private addresses.

    Redacting twice changes nothing more. Equal texts become equal texts.
    """

    secrets: Secrets
    people: People | None = None
    addresses: Addresses | None = None

    def text(self, text: str) -> str:
        """Return a text without what must not be written."""
        return _Pass(self).text(text)

    def data(self, value: Any) -> Any:
        """Return mappings, lists and texts without it; under the name of a secret every text is one."""
        return _Pass(self).data(value)

    def record(self, record: Record) -> Record:
        """Return a record, such as the result of a cell, without it."""
        return cast("Record", _Pass(self).walk(record))

    def run(self, run: Run) -> Run:
        """Return a run without it, which says how much was taken out of each kind."""
        work = _Pass(self)
        cleaned: Run = work.walk(replace(run, redaction=Redaction(done=True)))
        counted = Counter(run.redaction.removed) + work.removed
        return replace(cleaned, redaction=Redaction(True, dict(sorted(counted.items()))))


class _Pass:
    """One way through a text or a run: what it has met before, and what it took out."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self.removed: Counter[str] = Counter()
        self._seen: dict[tuple[str, bool], tuple[str, Counter[str]]] = {}

    def text(self, text: str, plain: bool = False) -> str:
        if len(text) < SHORTEST:
            return text
        found = self._seen.get((text, plain))
        if found is None:
            found = self._seen[text, plain] = self._clean(text, plain)
        if found[1]:
            self.removed.update(found[1])
        return found[0]

    def _clean(self, text: str, plain: bool) -> tuple[str, Counter[str]]:
        counts: Counter[str] = Counter()
        text = self.redactor.secrets.clean(text, counts)
        if self.redactor.people is not None and not plain:
            text = self.redactor.people.clean(text, counts)
        if self.redactor.addresses is not None and not plain:
            text = self.redactor.addresses.clean(text, counts)
        return text, +counts

    def walk(self, value: Any, plain: bool = False) -> Any:
        """Return a value of a run, whatever it is, without what must not be written; itself where nothing was."""
        if type(value) is str:
            return self.text(value, plain)
        if value is None or isinstance(value, (bool, int, float, enum.Enum)):
            return value
        if isinstance(value, (tuple, list)):
            return type(value)([self.walk(item) for item in value])
        if isinstance(value, Mapping):
            return {self.text(str(key), plain): self.walk(item, plain) for key, item in value.items()}
        return self._cell(value) if isinstance(value, Cell) else self._record(value)

    def _cell(self, cell: Cell) -> Cell:
        items = {self.text(axis): self.text(chosen) for axis, chosen in cell.items}
        return cell if tuple(items.items()) == cell.items else Cell.of(items)

    def _record(self, record: Any) -> Any:
        record, changed = self._mask(record) if isinstance(record, LabelMask) else record, {}
        for name in names_of(record.__class__):
            value = getattr(record, name)
            if name in NAMED and isinstance(value, Mapping):
                new = self.data(value)
            else:
                new = self.walk(value, plain=name in PLAIN)
            if new is not value and new != value:
                changed[name] = new
        return replace(record, **changed) if changed else record

    def data(self, value: Any, name: str = "") -> Any:
        """Return JSON-like data without what must not be written; `name` is the key under which it stands."""
        if isinstance(value, str):
            return self._named(name, value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.data(item, str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item, name) for item in value]
        return value

    def _named(self, name: str, value: str) -> str:
        """Return a text that stands under a name, which may say that all of it is secret."""
        if name and is_called_secret(name) and not _says_nothing(value) and not TAKEN_OUT.fullmatch(value):
            kind = f"value of {name}"
            self.removed[kind] += 1
            return placeholder(kind)
        if self.redactor.addresses is not None and name and names_an_address(name):
            return self.text(self._registry(value))
        return self.text(value)

    def _registry(self, value: str) -> str:
        def replaced(url: re.Match[str]) -> str:
            if is_public(url["host"]):
                return url[0]
            self.removed[KIND] += 1
            return ADDRESS

        return URL.sub(replaced, value)

    def _mask(self, mask: LabelMask) -> LabelMask:
        """Take out what goes over several tokens, and leave as many tokens as there were."""
        whole = "".join(mask.tokens)
        cleaned, counts = self._clean(whole, plain=False)
        if cleaned == whole:
            return mask
        self.removed.update(counts)
        tokens, place, gone = [], 0, _gone(whole, cleaned)
        for token in mask.tokens:
            tokens.append(_kept(token, place, gone))
            place += len(token)
        return replace(mask, tokens=tuple(tokens))


def _gone(whole: str, cleaned: str) -> list[tuple[int, int, str]]:
    """Return which parts of a text have been replaced, and by what: what lies between the pieces that were kept."""
    first, *pieces = PLACEHOLDER.split(cleaned)
    found, done = [], len(first)
    for piece, new in zip(pieces, PLACEHOLDER.findall(cleaned), strict=True):
        end = whole.find(piece, done + 1) if piece else done + 1
        if end < 0:
            break
        found.append((done, end, new))
        done = end + len(piece)
    if len(found) < len(pieces) or not found:
        return [(0, len(whole), placeholder("text"))]
    start, _, new = found[-1]
    return [*found[:-1], (start, len(whole) - len(pieces[-1]), new)]  # the last piece ends the text


def _kept(token: str, place: int, gone: list[tuple[int, int, str]]) -> str:
    """Return what is left of a token that begins at this place, with the placeholders of what begins in it."""
    parts, done, end = [], place, place + len(token)
    for start, stop, new in gone:
        if start < end and stop > done:
            parts.append(token[done - place : max(start - place, done - place)])
            parts.append(new if start >= place else "")
            done = min(stop, end)
    return "".join([*parts, token[done - place :]])


def _says_nothing(value: str) -> bool:
    """Say whether a value cannot be a secret, even under the name of one: nothing, a number, a path, a plain word."""
    return not value or (says_nothing(value) and not re.search("[A-Za-z].*[0-9]|[0-9].*[A-Za-z]", value))
