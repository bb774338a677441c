"""Text from outside as GitHub-flavoured Markdown: nothing in it can become an element, a link, a mention or a picture.

What may mean anything to Markdown, or to GitHub behind it (`@name`, `#1`, `:tada:`, addresses, commits), stands in
code, where nothing is looked for. Backslashes would not do: GitHub looks for names and numbers after it has taken them
away.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from ftdoctor.wording import shorten, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CELL = 160
"""Characters of a text in a table."""
LINE = 400
"""Characters of a text in a line."""
BLOCK = 6000
"""Characters of a block of code."""
LONGEST = 500
"""Characters of a line in a block of code."""
RUN = 100
"""From this length on a run of backticks in a block of code is told by its number."""

ROWS = 40
"""Rows of a table, or lines of a list, which is folded."""

_WORD = re.compile(
    r"""["'(]*"""
    r"[^\W_]+(?:(?:_|[-./='’%,]+)[^\W_]+)*%?"  # joined by signs that mean nothing between letters
    r"""[)"'.,;:!?]*"""
)
_SPAN = re.compile(r"(?:(?<=\s)|^)(\(?)`([^`\s](?:[^`]*[^`\s])?)`([).,;:!?]*)(?=\s|$)")
"""What a sentence puts between backticks, with the signs around it."""
_SIGNS = frozenset("·–…/→")
"""What may stand alone between words."""
_REFERENCE = re.compile(
    r"www\."  # an address
    r"|\b[A-Za-z]+-\d"  # `GH-1`, and what a repository has set up to be taken to its tracker
    r"|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,40}\b",  # a commit
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\d+[.)]")


def code(text: str, limit: int = LINE) -> str:
    """Return a text as code in a line; a line feed is shown as `\\n`. An empty text is nothing.

    Code is closed by the next run of as many backticks as it was opened with, so that any number will do of which
    there is no run inside. The smallest is taken, for GitHub knows no more than 80.
    """
    shown = _line(text, limit)
    if not shown:
        return ""
    runs = {len(run) for run in re.findall("`+", shown)}
    mark = "`" * next(n for n in range(1, len(shown) + 2) if n not in runs)
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{mark}{pad}{shown}{pad}{mark}"


def prose(text: str, limit: int = LINE) -> str:
    """Return a text as words of a sentence; what is no plain word stands in code, as what it calls code itself does.

    It may follow anything, and begins no list or heading where it stands first.
    """
    shown = shorten(" ".join(visible(shorten(text, 4 * limit)).split()), limit)
    made, end = [], 0
    for span in _SPAN.finditer(shown):
        made += [_words(shown[end : span.start()], not end), f"{span[1]}{code(span[2], limit)}{span[3]}"]
        end = span.end()
    return " ".join(part for part in [*made, _words(shown[end:], not end)] if part)


def _words(text: str, begins: bool) -> str:
    """Return words with those that are not plain in code; `begins` where nothing stands before them."""
    words = text.split()
    plain = [_is_plain(word, first=begins and not number) for number, word in enumerate(words)]
    runs = []
    for is_plain, pairs in groupby(zip(words, plain, strict=True), key=lambda pair: pair[1]):
        run = " ".join(word for word, _ in pairs)
        runs.append(run if is_plain else code(run, len(run)))
    return " ".join(runs)


def fence(text: str, language: str = "text", limit: int = BLOCK) -> str:
    """Return a text as a block of code, with long lines and long texts cut in their middle."""
    lines = [shorten(line, LONGEST) for line in visible(shorten(text, limit)).split("\n")]
    shown = shorten("\n".join(lines).strip("\n"), limit)
    # GitHub counts no fence beyond 255, so that a longer one would be closed by a run of that length in the text.
    shown = re.sub(f"`{{{RUN},}}", lambda run: f"``[{len(run[0])} backticks]``", shown)
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{shown}\n{mark}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_in_table(cell) for cell in line)} |" for line in lines)


def details(summary: str, inside: str) -> str:
    """Return a folded section; `summary` are words of ours, `inside` is Markdown already."""
    return f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>"


def bullets(lines: Iterable[str]) -> str:
    """Return lines of Markdown as a list."""
    return "\n".join(f"- {line}" for line in lines)


def labelled(rows: Iterable[tuple[str, str]]) -> str:
    """Return labels of ours with what they stand for; those that stand for nothing are left out."""
    return bullets(f"**{label}:** {text}" for label, text in rows if text)


def _line(text: str, limit: int) -> str:
    """Return a text on one line, cut before and after its hidden characters are shown."""
    shown = visible(shorten(text, limit)).replace("\n", "\\n").replace("\t", "\\t")
    return shorten(shown, limit)


def _is_plain(word: str, *, first: bool) -> bool:
    if word in _SIGNS:
        return not first
    if _WORD.fullmatch(word) is None or _REFERENCE.search(word):
        return False
    return not (first and _NUMBERED.fullmatch(word))


def _in_table(cell: str) -> str:
    """Escape what would end a cell.

    In a table `\\|` is a bar, in code too. Renderers do not agree whether `\\\\|` is a backslash and a bar, or a
    backslash and the end of the cell; a bar behind an odd number of backslashes gets a space before it, which all
    understand.
    """
    return re.sub(r"(\\*)\|", _bar, cell)


def _bar(found: re.Match[str]) -> str:
    slashes = found[1]
    return f"{slashes} \\|" if len(slashes) % 2 else f"{slashes}\\|"
