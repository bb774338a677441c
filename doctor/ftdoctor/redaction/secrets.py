"""Finds secrets in a text: by how they look, by the name before them, and by their value, which the environment has."""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

import ftdoctor_matrix as matrix
from ftdoctor.errors import UsageError
from ftdoctor.redaction import assigned, environment

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping

START = re.compile(r"(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=[0-9;\[]m)")
"""Where a word begins: also behind an escaped line feed, and behind a colour of the terminal."""

UNSEEN = "\xad\u200b\u2060\ufeff"
"""What is not seen between two letters: soft hyphens, and joiners of no width."""

WRAP = re.compile(
    r"(?<=\S)[ \t]*[│┃|]?[ \t]*(?:\r?\n|\\n)[ \t]*(?:[│┃|][ \t]*)?(?=\S)"
    rf"|(?<=[\w.-])(?:\x1b\[[0-9;]{{0,12}}m|[{UNSEEN}]){{1,8}}(?=[\w.-])"
)
"""What cuts a long word in two: a line break with the frame of a box, a colour, something that is not seen."""

CUTS = ("\n", "\\n", "\x1b[", *UNSEEN)
"""One of them stands in every text in which a word may be cut."""

NO_LETTER = re.compile(rf"\x1b\[[0-9;]{{0,12}}m|[\s│┃{UNSEEN}]+")
"""What is left out of a text to see whether it may hold a word that is cut."""

GOES_ON = re.compile("[0-9_-]|[a-z][A-Z]|[A-Z]{2}[a-z]")
"""What the rest of a token has and a word at the beginning of a line has not."""

WRAPS = 9
"""Line breaks that one secret may go over."""

PLACEHOLDER = re.compile(r"<redacted: [^<>]*>")
GLUED = re.compile(r"(?:[.:~-]*[A-Za-z0-9_])+")
"""What hangs on a token without a space: a second one, of which the first has taken the beginning."""
TAKEN_OUT = re.compile(r"(?:<redacted: [^<>]*>|[\W_])*")
"""What nothing is left of."""


@dataclass(frozen=True)
class Rule:
    """One way in which a secret looks."""

    kind: str
    keywords: tuple[str, ...]
    source: str
    word: bool = False
    after: str = ""
    lines: bool = False

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The pattern, compiled when a text is first found that may hold such a secret."""
        return re.compile(self.source, re.ASCII)

    @functools.cached_property
    def wraps(self) -> bool:
        """Whether it is one word, which a narrow box cuts in two. What reads the text around a secret reads lines."""
        return "(?P<secret>" not in self.source and not self.lines

    def find(self, text: str, wraps: list[int] | None = None) -> Iterator[tuple[int, int]]:
        """Yield where secrets stand; `wraps` are places at which a line break was taken out of the text."""
        group, place = "secret" if "secret" in self.pattern.groupindex else 0, 0
        while found := self.pattern.search(text, place):
            start, end = found.span(group)
            place = max(found.end(), place + 1)
            if (self.word and not START.match(text, start) and not (wraps and start in wraps)) or (
                self.after and not re.search(self.after, text[max(0, start - 200) : start])
            ):
                continue
            if self.wraps and wraps is None and (glued := GLUED.match(text, end)):
                place = end = glued.end()
            if start < end:
                yield start, end


@dataclass(frozen=True)
class Secrets:
    """All ways in which secrets are found.

    Args:
        rules: how secrets look.
        values: secrets that are known, each in every form in which it may stand, with what they are called; the
            longest first.
    """

    rules: tuple[Rule, ...]
    values: tuple[tuple[str, str], ...] = ()

    @functools.cached_property
    def _index(self) -> tuple[tuple[str, Rule], ...]:
        return tuple((keyword, rule) for rule in self.rules for keyword in rule.keywords)

    def clean(self, text: str, removed: Counter[str]) -> str:
        """Return the text without its secrets, and count them by kind.

        Where some were found it looks again: what hung on one of them has become a word of its own.
        """
        while (cleaned := self._once(text, removed)) != text:
            text = cleaned
        return text

    def _once(self, text: str, removed: Counter[str]) -> str:
        lower = text.lower()
        if any(cut in text for cut in CUTS):
            bare = NO_LETTER.sub("", lower)
            if any(word in bare for word in self._wrapping):
                text = self._wrapped(text, removed)
                lower = text.lower()
        text = self._values(text, removed)
        for rule in dict.fromkeys(rule for keyword, rule in self._index if keyword in lower):
            text = _replaced(text, [(*span, rule.kind) for span in rule.find(text)], removed)
        return _replaced(text, assigned.find(text), removed) if assigned.may_hold(lower) else text

    @functools.cached_property
    def _wrapping(self) -> tuple[str, ...]:
        """What, in small letters and without spaces, every text holds that has a secret cut by a line break."""
        values = {"".join(value.lower().split()) for value, _ in self.values}
        return (*values, *(keyword for keyword, rule in self._index if rule.wraps))

    def _values(self, text: str, removed: Counter[str]) -> str:
        for value, kind in self.values:
            if value in text:
                places = ((*found.span(), kind) for found in re.finditer(re.escape(value), text))
                text = _replaced(text, places, removed)
        return text

    def _wrapped(self, text: str, removed: Counter[str]) -> str:
        """Take out secrets that go over a line break: they are looked for in the text without its line breaks."""
        cuts = [found.span() for found in WRAP.finditer(text)]
        if not cuts:
            return text
        joined = "".join(
            text[a:b] for a, b in zip([0, *(e for _, e in cuts)], [*(s for s, _ in cuts), len(text)], strict=True)
        )
        gone = list(accumulate((end - start for start, end in cuts), initial=0))
        wraps = [start - before for (start, _), before in zip(cuts, gone, strict=False)]

        def original(place: int, after: bool) -> int:
            return place + gone[(bisect.bisect_left if after else bisect.bisect_right)(wraps, place)]

        found = []
        for start, end, kind in self._in_joined(joined, wraps):
            crossed = bisect.bisect_left(wraps, end) - bisect.bisect_right(wraps, start)
            if 0 < crossed <= WRAPS:
                found.append((original(start, after=False), original(end, after=True), kind))
        return _replaced(text, found, removed)

    def _in_joined(self, joined: str, wraps: list[int]) -> Iterator[tuple[int, int, str]]:
        for value, kind in self.values:
            yield from ((m.start(), m.end(), kind) for m in re.finditer(re.escape(value), joined))
        lower = joined.lower()
        for rule in dict.fromkeys(rule for keyword, rule in self._index if rule.wraps and keyword in lower):
            for start, end in rule.find(joined, wraps):
                yield start, _end_of(rule, joined, start, end, wraps), rule.kind


def _end_of(rule: Rule, joined: str, start: int, end: int, wraps: list[int]) -> int:
    """Return where a secret ends that seems to go on in the next line, which may be another word."""
    inner = wraps[bisect.bisect_right(wraps, start) : bisect.bisect_left(wraps, end)]
    for place, after in zip(inner, [*inner, end][1:], strict=True):
        if not GOES_ON.search(joined[place:after]) and any(s == 0 for s, _ in rule.find(joined[start:place])):
            return place
    return end


def placeholder(kind: str) -> str:
    """Return what stands in place of a secret."""
    return f"<redacted: {kind}>"


def secrets(environ: Mapping[str, str], extra: Iterable[str] = ()) -> Secrets:
    """Return the secrets of this environment; `extra` are patterns of the user's.

    Raises:
        UsageError: one of them is no regular expression.
    """
    made = [Rule(s.kind, s.keywords, s.pattern, s.word, s.after, s.lines) for s in matrix.private().secrets]
    plain = Secrets((*map(_own, extra), *made))
    return Secrets(plain.rules, environment.known(environ, lambda value, name: _kind(plain, value, name)))


def _own(pattern: str) -> Rule:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"The pattern {pattern!r} of what is to be redacted is no regular expression: {error}."
        ) from error
    return Rule("own pattern", ("",), pattern, lines=True)


def _kind(plain: Secrets, value: str, name: str) -> str:
    """Return what a secret of the environment is called: by how it looks, else by its variable."""
    for rule in plain.rules:
        if any(k in value.lower() for k in rule.keywords) and (0, len(value)) in rule.find(value):
            return rule.kind
    return f"value of {name}"


def _replaced(text: str, found: Iterable[tuple[int, int, str]], removed: Counter[str]) -> str:
    """Put placeholders into a text; of places that overlap, the first counts and takes in the others.

    Placeholders that stand there already stay whole, and where nothing else stands, nothing is put.
    """
    parts, done = [], 0
    there = [known.span() for known in PLACEHOLDER.finditer(text)] if "<redacted: " in text else []
    for begins, ends, kind in sorted(found):
        first, last = (
            bisect.bisect_right(there, begins, key=itemgetter(1)),
            bisect.bisect_left(there, ends, key=itemgetter(0)),
        )
        touched = there[first:last]
        start, end = min([begins, *(s for s, _ in touched[:1])]), max([ends, *(e for _, e in touched[-1:])])
        if end <= done or TAKEN_OUT.fullmatch(text, start, end):
            continue
        if start >= done:
            parts += [text[done:start], placeholder(kind)]
            removed[kind] += 1
        done = end
    return "".join([*parts, text[done:]]) if parts else text
