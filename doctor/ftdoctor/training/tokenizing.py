"""Texts to tokens that can be cut at given characters, with what a tokenizer puts in front of every text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Cut:
    """The tokens of a text, and the tokens at which it may be cut."""

    ids: list[int]
    at: Mapping[int, int]
    """Index of a character to the index of the token that begins with it."""
    joined: int
    """Characters at which the tokenizer would have joined what stands on both sides in one token."""


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text alone, without those that the tokenizer would put around it."""
    return list(_encoded(tokenizer, text)["input_ids"])


def _encoded(tokenizer: Any, text: str) -> Any:
    # Not verbose: a text longer than the model takes is cut later, and no reason for a warning.
    return tokenizer(text, add_special_tokens=False, verbose=False)


def cut_tokens(tokenizer: Any, text: str, cuts: Sequence[int], behind_special: Sequence[int] = ()) -> Cut:
    """Tokenize a text so that no token reaches across any of these characters.

    The text up to each cut is tokenized by itself, as inference does with a prompt. Where its tokens do not begin
    the tokens of the text up to the next cut, the tokenizer joins the two; the text in between is then tokenized by
    itself, and the result must decode to the same text.

    Args:
        tokenizer: any tokenizer of transformers, fast or slow.
        text: the whole text.
        cuts: indices of characters.
        behind_special: further indices, each right behind a special token, where no tokenizer joins anything.

    Raises:
        DataError: the text cannot be cut there: its parts decode to another text.
    """
    whole = _encoded(tokenizer, text)
    ids: list[int] = []
    at = {0: 0}
    before, joined = 0, 0
    found = _behind(tokenizer, whole, behind_special)
    for cut in sorted({*cuts, len(text), *([] if found else behind_special)} - {0}):
        beginning = list(whole["input_ids"]) if cut == len(text) else token_ids(tokenizer, text[:cut])
        if beginning[: len(ids)] == ids:
            ids = beginning
        else:
            ids = _continued(tokenizer, ids, text[before:cut], beginning)
            joined += 1
        at[cut] = len(ids)
        before = cut
    if joined and found:  # the places were found in other tokens
        return cut_tokens(tokenizer, text, [*cuts, *behind_special])
    return Cut(ids, {**at, **found}, joined)


def _behind(tokenizer: Any, whole: Any, characters: Sequence[int]) -> dict[int, int]:
    """Return the indices of the tokens behind special ones, where the tokenizer can tell; else nothing."""
    if not getattr(tokenizer, "is_fast", False):
        return {}
    found = {c: whole.char_to_token(c - 1) for c in characters}
    return {} if None in found.values() else {c: token + 1 for c, token in found.items()}


def _continued(tokenizer: Any, ids: list[int], piece: str, whole: list[int]) -> list[int]:
    """Return tokens that go on with the tokens of a piece, and decode to what `whole` decodes to."""
    wanted = _decode(tokenizer, whole)
    anchor = str(tokenizer.eos_token or tokenizer.pad_token or "")
    anchored = token_ids(tokenizer, anchor + piece)
    front = token_ids(tokenizer, anchor)
    # Some tokenizers put a space in front of every text, but not behind a special token.
    tries = [token_ids(tokenizer, piece)] + [anchored[len(front) :]] * (anchored[: len(front)] == front)
    for tokens in tries:
        if _decode(tokenizer, ids + tokens) == wanted:
            return ids + tokens
    raise DataError(
        f"the tokenizer joins the text before and after {piece[:20]!r} in one token, and the two cannot be told apart; "
        "put a line break or a space between prompt and answer."
    )


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def front_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer puts in front of every plain text: the beginning of sequence, or none."""
    sample = "a"
    alone = token_ids(tokenizer, sample)
    around = list(tokenizer(sample)["input_ids"])
    for at in range(len(around) - len(alone) + 1):
        if around[at : at + len(alone)] == alone:
            return around[:at]
    return []


def leading(ids: Sequence[int], token: int | None) -> int:
    """Return how many times a token stands at the beginning."""
    number = 0
    while token is not None and number < len(ids) and ids[number] == token:
        number += 1
    return number
