"""A second opinion on the labels: what the chat template itself marks as written by the assistant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError
from ftdoctor.training.rendering import Controls, without_none
from ftdoctor.training.truncating import IGNORED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marks_answers(tokenizer: Any, options: Mapping[str, Any]) -> bool:
    """Say whether the chat template marks what the assistant writes, and the tokenizer can find the tokens of it."""
    template = options.get("chat_template") or tokenizer.chat_template
    return bool(getattr(tokenizer, "is_fast", False)) and bool(_MARKS.search(str(template)))


def check_marks(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    ids: Sequence[int],
    labels: Sequence[int],
    begin: int,
    controls: Controls,
    options: Mapping[str, Any],
) -> None:
    """Check labels against the `{% generation %}` blocks of a chat template that has them (`marks_answers`).

    White space and control tokens may differ: templates draw the block around the end of turn or in front of it. So
    may what a generation prompt writes of an answer (`<think>`), with which some blocks begin, and parts of a
    character: where a block ends with one of several tokens, transformers marks its first alone.
    Nothing is checked where a message has a `weight` of 0, or where the tokens had to be cut otherwise.

    Args:
        tokenizer: the tokenizer.
        messages: the conversation.
        ids: its tokens.
        labels: their labels.
        begin: index of the token from which on all that the assistant writes is scored.
        controls: the tokenizer's control tokens.
        options: variables of the chat template.

    Raises:
        DataError: the two disagree about a token.
    """
    if any(m.get("weight") == 0 for m in messages):
        return
    made = tokenizer.apply_chat_template(
        [without_none(m) for m in messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
        **options,
    )
    if list(made["input_ids"])[: len(ids)] != list(ids):
        return
    known = {*controls.special, *controls.added}
    leads_in = False  # whether everything up to the next scored token is marked
    for i in range(len(ids) - 1, begin - 1, -1):
        scored, marked = labels[i] != IGNORED, bool(made["assistant_masks"][i])
        leads_in = scored or (leads_in and marked)
        if scored == marked or leads_in > scored:
            continue
        text = tokenizer.decode([ids[i]], skip_special_tokens=False)
        if text.strip("\ufffd").strip() and text.strip() not in known:
            written = "is written by" if marked else "is not written by"
            raise DataError(
                f"the chat template's {{% generation %}} block says that {text!r} (token {i}) {written} the assistant, "
                "its prompts say the contrary; mend the block, or take it out of the template."
            )
