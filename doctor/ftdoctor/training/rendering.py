"""Chat templates: messages to text, and which characters of it the model writes itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.wording import shorten

TURNS = ("all", "last")
SHOWN = 60
"""Characters of a text that an error shows."""


@dataclass(frozen=True)
class Controls:
    """The texts of a tokenizer's tokens that no ordinary text is meant to hold."""

    special: tuple[str, ...] = ()
    """Its special tokens."""
    added: tuple[str, ...] = ()
    """Tokens added to its vocabulary that are not marked special."""

    @classmethod
    def of(cls, tokenizer: Any) -> Controls:
        """Read them off a tokenizer."""
        known = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(t) for t in known if t.special} | {str(t) for t in tokenizer.all_special_tokens}
        added = {str(t) for t in known} - special
        return cls(tuple(sorted(special - {""})), tuple(sorted(added - {""})))


@dataclass(frozen=True)
class Span:
    """The characters of a rendered conversation that the model writes in one turn, its end of turn included."""

    message: int
    """Index of the assistant's message."""
    start: int
    """Index of the first character after the generation prompt."""
    end: int
    """Index after the last character of the end of turn, or of the answer where the template writes none."""
    end_token: str
    """The control token that ends the turn; empty where the template writes none."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it."""

    text: str
    spans: tuple[Span, ...]
    """The turns that are scored, in their order."""


def require_template(tokenizer: Any) -> None:
    """Check that a tokenizer has a chat template.

    Raises:
        TrainingError: it has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TrainingError(
            "The tokenizer has no chat template, so it cannot write messages; set tokenizer.chat_template, load the "
            "tokenizer of the model's instruct version, or train on plain text in `prompt` and `completion`."
        )


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    **options: Any,
) -> str:
    """Return messages as the tokenizer's chat template writes them.

    Keys of messages and of typed parts whose value is None are left out, as tables fill them in for rows that do
    not have them.

    Args:
        tokenizer: has `apply_chat_template`.
        messages: role and content each.
        add_generation_prompt: end with what makes the model answer.
        options: `tools` and the template's own variables, such as `enable_thinking`.

    Raises:
        DataError: the template refuses these messages.
        TrainingError: there is no template.
    """
    require_template(tokenizer)
    try:
        return str(
            tokenizer.apply_chat_template(
                [without_none(m) for m in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **options,
            )
        )
    except Exception as error:
        raise DataError(
            f"the chat template refuses the messages ({shorten(f'{type(error).__name__}: {error}', 200)}); "
            "change the row, or the template."
        ) from error


def render_answers(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    turns: str = "all",
    first: int = 0,
    controls: Controls | None = None,
    **options: Any,
) -> Rendered:
    """Render a conversation, and find what the model writes in it by rendering its beginnings.

    The text up to an answer must be what inference feeds: the messages before it with the generation prompt. Each
    beginning is checked to be one, so that a template which writes a turn otherwise once others follow it (as those
    of reasoning models do) is refused instead of masked wrongly.

    Args:
        tokenizer: has `apply_chat_template`.
        messages: role and content each; the assistant's with a `weight` of 0 are not scored.
        turns: `all` of the assistant's turns, or the `last` alone.
        first: index of the first message that may be scored.
        controls: the tokenizer's control tokens, one of which ends a turn; read off it where None.
        options: `tools` and the template's own variables.

    Raises:
        DataError: the beginnings do not agree, or the template leaves out or refuses a message.
        TrainingError: there is no template.
    """
    controls = controls or Controls.of(tokenizer)
    text = render(tokenizer, messages, **options)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i >= first]
    chosen = answers[-1:] if turns == "last" else answers
    _check_present(messages, text)
    spans = []
    for i in chosen:
        if messages[i].get("weight") == 0:
            continue
        start = _start(tokenizer, messages, i, text, options)
        find = _last_end if i == len(messages) - 1 else _end
        end = find(tokenizer, messages, i, text, controls, options)
        spans.append(_answer(messages[i], i, text, start, end, controls))
    return Rendered(text, tuple(spans))


def without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without the keys that hold None, in its typed parts too."""
    kept = {key: value for key, value in message.items() if value is not None}
    if isinstance(kept.get("content"), list):
        kept["content"] = [
            {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else part
            for part in kept["content"]
        ]
    return kept


def texts(content: Any) -> list[str]:
    """Return the texts of a content: itself, or those of its typed parts."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, Sequence):
        return [str(part.get("text") or "") for part in content if isinstance(part, Mapping)]
    return []


def _start(tokenizer: Any, messages: Sequence[Mapping[str, Any]], i: int, text: str, options: Mapping[str, Any]) -> int:
    if i == 0:
        raise DataError("the conversation begins with the assistant; put the user's message in front.")
    prompt = render(tokenizer, messages[:i], add_generation_prompt=True, **options)
    if not text.startswith(prompt):
        raise DataError(
            f"the chat template writes the prompt of message {i + 1} otherwise than in the whole conversation "
            f"({_difference(prompt, text)}), so that inference would feed something else than was trained on; "
            f"{_way_out(i, messages)}"
        )
    return len(prompt)


def _end(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    i: int,
    text: str,
    controls: Controls,
    options: Mapping[str, Any],
) -> int:
    upto = render(tokenizer, messages[: i + 1], **options)
    # Some templates close a whole conversation with one more special token.
    for closing in ("", *(s for s in controls.special if upto.endswith(s))):
        if text.startswith(upto.removesuffix(closing)):
            return len(upto) - len(closing)
    raise DataError(
        f"the chat template writes message {i + 1} otherwise once others follow it ({_difference(upto, text)}); "
        f"{_way_out(i, messages)}"
    )


def _last_end(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    i: int,
    text: str,
    controls: Controls,
    options: Mapping[str, Any],
) -> int:
    """Return where the last turn ends: at the end of the text, or before what closes the whole conversation.

    Where two special tokens stand at the end, the second may close the conversation, or end a turn behind a part of
    the answer that ends with one itself, such as a call of a tool: what follows if somebody answers tells which.
    """
    closing = _closing(text.rstrip(), 0, controls.special)
    without = text.rstrip().removesuffix(closing)
    if not closing or not _closing(without.rstrip(), 0, controls.special):
        return len(text)
    said = "." if isinstance(messages[i].get("content"), str) else [{"type": "text", "text": "."}]
    try:
        longer = render(tokenizer, [*messages, {"role": "user", "content": said}], **options)
    except DataError:
        return len(text)
    return len(without) if longer.startswith(without) and not longer.startswith(without + closing) else len(text)


def _answer(message: Mapping[str, Any], i: int, text: str, start: int, end: int, controls: Controls) -> Span:
    """Cut what the template writes after the end of turn off the characters of a turn."""
    turn = text[start:end]
    # What a template moves in front of the answer (reasoning) or drops is not looked for.
    answer = "".join(texts(message.get("content"))).rpartition("</think>")[2].strip()
    if answer not in turn:
        raise DataError(
            f"the chat template does not write message {i + 1} as it is: {shorten(answer, SHOWN)!r} is not in "
            f"{shorten(turn, SHOWN)!r}; use a template that does."
        )
    missing = [name for name in _called(message) if name not in turn]
    if missing:
        raise DataError(f"the chat template leaves out the call of {missing[0]!r} in message {i + 1}; use another one.")
    kept, after = turn.rstrip(), turn.index(answer) + len(answer)
    token = _closing(kept, after, controls.special) or _closing(kept, after, controls.added)
    return Span(i, start, start + len(kept), token)


def _called(message: Mapping[str, Any]) -> list[str]:
    """Return the names of the tools that a message calls."""
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    return [str((call.get("function") or call).get("name") or "") for call in calls]


def _closing(kept: str, after: int, tokens: Sequence[str]) -> str:
    """Return the longest token at the end of a text that does not reach back before `after`."""
    return max((t for t in tokens if kept.endswith(t) and len(kept) - len(t) >= after), key=len, default="")


def _check_present(messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Check that no message but the assistant's was left out, as some templates do silently."""
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            continue
        for said in texts(message.get("content")):
            # What a tool returns is written as JSON by some.
            if said.strip() not in text and json.dumps(said)[1:-1] not in text:
                raise DataError(
                    f"the chat template leaves out message {i + 1}, of the role {message['role']!r}; use a template "
                    "that writes it, or rows without it."
                )


def _way_out(i: int, messages: Sequence[Mapping[str, Any]]) -> str:
    later = any(m["role"] == "assistant" for m in messages[i + 1 :])
    return "score the last turn alone (turns='last')." if later else "use a template whose prompts begin its answers."


def _difference(beginning: str, text: str) -> str:
    pairs = zip(beginning, text, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(beginning), len(text)))
    return f"{shorten(beginning[at:], SHOWN)!r} against {shorten(text[at:], SHOWN)!r}"
