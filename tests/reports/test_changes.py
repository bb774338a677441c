"""Word differences lose nothing, leave as much the same as can be, and take limited time."""

from __future__ import annotations

import difflib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor_reports.predictions.changes import Changes, Part, changes, exact, similarity, words

FEW = st.lists(
    st.sampled_from(["a", "b", "the", "cat", ".", " ", "  ", "\n", "\t", "字", "é", "e\u0301", "\x00", "\ud800"])
)
TEXTS = FEW.map("".join) | FEW.map(" ".join) | st.text(st.characters())


def sides(found: Changes) -> tuple[str, str]:
    return tuple("".join(p.text for p in found.parts if p.kind != left_out) for left_out in ("new", "gone"))


def longest(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, by the book."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], last + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


@given(TEXTS, TEXTS)
def test_the_parts_give_both_texts_back(before, after):
    """To the character, whatever they hold."""
    assert sides(changes(before, after)) == (before, after)


@given(TEXTS, TEXTS)
def test_parts_are_joined_and_never_empty(before, after):
    """Neighbours differ in kind; a text beside itself is one part."""
    parts = changes(before, after).parts

    assert all(part.text for part in parts)
    assert all(one.kind != other.kind for one, other in itertools.pairwise(parts))
    assert changes(before, before).parts == ((Part("same", before),) if before else ())


@given(TEXTS, TEXTS)
def test_as_many_words_as_can_be_are_left_the_same(before, after):
    """The table of the textbook finds no more."""
    parts = changes(before, after).parts
    kept = sum(len(words(part.text)) for part in parts if part.kind == "same")

    assert kept == longest(words(before), words(after))


@given(TEXTS, TEXTS)
def test_similarity_is_twice_the_common_words_over_all_words(one, other):
    """In either direction; never less than difflib's ratio, which depends on the direction."""
    a, b = words(one), words(other)
    expected = 2 * longest(a, b) / (len(a) + len(b)) if a or b else 1.0

    assert similarity(one, other) == similarity(other, one) == pytest.approx(expected)
    assert expected >= difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() - 1e-12


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("It is 7.", "It is 8.", "It is [-7-]{+8+}."),
        ("the cat sat", "a dog sat", "[-the cat-]{+a dog+} sat"),
        ("one two", "one two three", "one two{+ three+}"),
        ("same words", "same  words\n", "same{+ +} words{+\n+}"),
        ("Mars is the big one", "Venus is the one", "[-Mars-]{+Venus+} is the[- big-] one"),
        ("the", "Now the", "{+Now +}the"),
        ("carpet", "cart", "[-carpet-]{+cart+}"),
        ("我是猫", "我是狗", "我是[-猫-]{+狗+}"),
        ("", "new", "{+new+}"),
        ("gone", "", "[-gone-]"),
    ],
)
def test_words_are_whole(before, after, parts):
    """Punctuation and characters of Chinese count as words; white space that both have stays outside."""
    marks = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}

    assert "".join(marks[p.kind].format(p.text) for p in changes(before, after).parts) == parts


@pytest.mark.parametrize(
    ("one", "other", "share"), [("It is 8.", "It is 8.", 1), ("It is 8.", "It is 7.", 0.75), ("a", "b", 0), ("", " ", 1), ("a", "", 0)]
)  # fmt: skip
def test_similarity_in_examples(one, other, share):
    """Four words, of which three are the same: 0.75."""
    assert similarity(one, other) == share


def test_exact_leaves_out_white_space_around_only():
    """Not inside, and no case."""
    assert exact(" It is 8.\n", "It is 8.")
    assert not exact("It  is 8.", "It is 8.")
    assert not exact("it is 8.", "It is 8.")


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x" * MEGABYTE, "x" * (MEGABYTE - 1) + " y"),
        ("\x00" * MEGABYTE, "\x00" * (MEGABYTE - 5) + "a" * 5),
        ("\n" * MEGABYTE, "\n" * MEGABYTE + "a"),
        ("a b " * (MEGABYTE // 4), "c " + "b d " * (MEGABYTE // 4)),
        ("the " * (MEGABYTE // 4), "the " * (MEGABYTE // 4 - 9)),
        ("!" * MEGABYTE, "?" * 3),
        ("the " * 1900 + "x", "y" + " the" * 1900),
    ],
    ids=["a word", "NUL", "lines", "all other", "repeated", "signs", "just compared"],
)
def test_a_megabyte_takes_limited_time(before, after):
    """And loses nothing: a quadratic way takes hours here."""
    begun = time.process_time()
    found = changes(before, after)
    similarity(before, after)

    assert time.process_time() - begun < 10
    assert sides(found) == (before, after)


def test_what_is_too_long_to_compare_is_said():
    """The common beginning and end are left out of the middle; there is no number for it."""
    before, after = "begin " + "a b " * 5000 + "end", "begin " + "c b " * 5000 + "end"
    found = changes(before, after)

    assert found.bounded
    assert [part.kind for part in found.parts] == ["same", "gone", "new", "same"]
    assert similarity(before, after) is None
    assert not changes("begin " * 100_000 + "a", "begin " * 100_000 + "b").bounded
