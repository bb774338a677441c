"""Rows of any form become messages with one system prompt and contents that are text, the same at inference.

Why: a number, a dict or a missing text in a content is printed by a template as Python prints it, or stops a run of
hours; a system prompt that training saw and inference forgets (or the other way round) makes another model of it;
conversations out of order are trained as they are. All of it without a word, on most templates.

Cure: `ftdoctor.training.Messages(MessageRules(system_prompt=...), tokenizer)`: `rows` for training, `prompt` at
inference, and look at `counts`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SYSTEM, OWN = "Answer with care.", "Answer in rhymes."
ASK, SAY = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Three of them."}
DATA = {"number": 3, "object": {"größe": 3, "ok": True}, "list": [1, None], "nothing": None, "truth": False}
"""Contents that are no text; datasets have them where answers were made by programs."""
SYSTEMS: dict[str, list[dict[str, Any]]] = {
    "none": [ASK, SAY],
    "its own": [{"role": "system", "content": OWN}, ASK, SAY],
    "an empty one": [{"role": "system", "content": ""}, ASK, SAY],
}
INVALID: dict[str, list[dict[str, Any]]] = {
    "two questions": [ASK, ASK, SAY],
    "the answer first": [SAY, ASK, SAY],
    "no answer": [ASK],
    "an empty answer": [ASK, {"role": "assistant", "content": " "}],
    "an unknown role": [ASK, {"role": "asistant", "content": "Three."}],
    "a late system": [ASK, SAY, {"role": "system", "content": OWN}, ASK, SAY],
}


@probe(area="components", needs=("transformers",), axes=("family",))
def chat_messages(bench: Bench, check: Check) -> None:
    """Convert rows as the component does, as a script does, and as the template takes them; read what is rendered."""
    from ftdoctor.training import MessageRules, Messages

    tokenizer = bench.tokenizer()

    def ours(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        converted = Messages(MessageRules(system_prompt=SYSTEM), tokenizer).convert({"messages": messages})
        return list(converted["messages"]) if converted else []

    ways: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {"naive": _by_hand, "library": list}
    check.equal(
        "system prompts in each conversation",
        _systems(tokenizer, ours),
        {"none": [SYSTEM], "its own": [OWN], "an empty one": [SYSTEM]},
        why="one each: its own, or the one that was asked for",
        beside={way: attempt(partial(_systems, tokenizer, convert)) for way, convert in ways.items()},
        owner=Messages,
    )
    check.equal(
        "answers that are data, read back from the rendered text",
        _data(tokenizer, ours),
        DATA,
        why="they are written as JSON, which loses nothing",
        beside={way: attempt(partial(_data, tokenizer, convert)) for way, convert in ways.items()},
        owner=Messages,
    )
    asked = Messages(MessageRules(system_prompt=SYSTEM), tokenizer).prompt(ASK["content"])
    check.equal(
        "rendered prompt at inference that training saw",
        _seen(tokenizer, asked, ours([ASK, SAY])),
        1.0,
        why="the share of its characters with which the training row begins",
        beside={
            # The prompt of the script is in the training run alone: who writes the other end does not know of it.
            "naive": attempt(lambda: _seen(tokenizer, [ASK], _by_hand([ASK, SAY]))),
            "library": attempt(lambda: _seen(tokenizer, [ASK], [ASK, SAY])),
        },
        owner=Messages.prompt,
    )
    check.equal(
        "invalid conversations that are taken",
        _taken(tokenizer, ours),
        [],
        why="each teaches something that nobody asks for",
        beside={way: _taken(tokenizer, convert) for way, convert in ways.items()},
        owner=Messages,
    )
    counting = Messages(tokenizer=tokenizer)
    counting.rows([{"messages": [ASK, SAY]}, {"prompt": "How many?", "completion": 0}, {"messages": [ASK, SAY]}])
    check.equal(
        "duplicates and bare answers that are counted",
        (counting.counts.duplicates, counting.counts.bare_answers),
        (1, 1),
        why="one of three rows is there twice, one answers with a bare number",
        owner=Messages,
    )


def _by_hand(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do as scripts do: the system prompt where the first message is no system's, typed parts for everything."""
    if messages[0].get("role") != "system":
        messages = [{"role": "system", "content": SYSTEM}, *messages]
    made = []
    for message in messages:
        content = message["content"]
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        made.append({**message, "content": text if isinstance(content, str) else [{"type": "text", "text": text}]})
    return made


def _systems(tokenizer: Any, convert: Callable[..., Any]) -> dict[str, list[str]]:
    """Return which system prompts stand in each rendered conversation, as often as they do."""
    found = {}
    for name, chat in SYSTEMS.items():
        text = tokenizer.apply_chat_template(convert(chat), tokenize=False)
        found[name] = [prompt for prompt in (SYSTEM, OWN) for _ in range(text.count(prompt))]
    return found


def _data(tokenizer: Any, convert: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the answers that are data, as a reader of JSON finds them in the rendered text."""
    found = {}
    for name, value in DATA.items():
        chat = convert([ASK, {"role": "assistant", "content": value}])
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        text = whole[len(prompt) :].strip().removesuffix(tokenizer.eos_token)
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = f"no JSON: {text}"
    return found


def _seen(tokenizer: Any, asked: list[dict[str, Any]], trained: list[dict[str, Any]]) -> float:
    """Return the share of a prompt with which the training row begins."""
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    row = tokenizer.apply_chat_template(trained, tokenize=False)
    same = next((i for i, (a, b) in enumerate(zip(prompt, row, strict=False)) if a != b), len(prompt))
    return same / len(prompt)


def _taken(tokenizer: Any, convert: Callable[..., Any]) -> list[str]:
    """Return the names of the invalid conversations that are rendered without an objection."""

    def rendered(chat: list[dict[str, Any]]) -> Any:
        return tokenizer.apply_chat_template(convert(chat), tokenize=False)

    return [name for name, chat in INVALID.items() if isinstance(attempt(partial(rendered, chat)), str)]


@chat_messages.fault("no system prompt is put in", catches=("system prompts in each conversation",))
def system_left_out(patch: Patch) -> None:
    """The rules are not heeded."""
    from ftdoctor.training.messages import Messages

    def around(original: Any, self: Any, messages: Any, *args: Any) -> Any:
        return messages

    patch.wrap(Messages, "_with_system", around)


@chat_messages.fault("an empty system message counts as one", catches=("system prompts in each conversation",))
def empty_counts(patch: Patch) -> None:
    """What every script does that asks for the first message's role alone."""
    from ftdoctor.training import messages

    def around(original: Any, content: Any) -> bool:
        return True

    patch.wrap(messages, "is_filled", around)


@chat_messages.fault(
    "data is written as Python prints it", catches=("answers that are data, read back from the rendered text",)
)
def printed_by_python(patch: Patch) -> None:
    """What templates do with it."""
    from ftdoctor.training import messages

    def around(original: Any, value: Any) -> str:
        return str(value)

    patch.wrap(messages, "json_text", around)


@chat_messages.fault("inference forgets the system prompt", catches=("rendered prompt at inference that training saw",))
def forgotten_at_inference(patch: Patch) -> None:
    """It is put into training rows alone."""
    from ftdoctor.training.messages import Messages

    def around(original: Any, self: Any, messages: Any) -> Any:
        return [m for m in original(self, messages) if m["role"] != "system"]

    patch.wrap(Messages, "prompt", around)


@chat_messages.fault("nobody checks the order", catches=("invalid conversations that are taken",))
def order_unchecked(patch: Patch) -> None:
    """Conversations are taken as they come."""
    from ftdoctor.training import messages

    def around(original: Any, chat: Any) -> None:
        return None

    patch.wrap(messages, "check_order", around)


@chat_messages.fault("every row is taken for a new one", catches=("duplicates and bare answers that are counted",))
def duplicates_unseen(patch: Patch) -> None:
    """The digests differ."""
    from ftdoctor.training.duplicates import Seen

    def around(original: Any, self: Any, text: str) -> bool:
        return False

    patch.wrap(Seen, "add", around)
