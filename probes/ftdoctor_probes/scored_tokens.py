"""Exactly the answers and their ends of turn are scored, behind the very tokens that inference feeds.

Why: a prompt that is scored is learned as well, an end that is not scored is never written, a second beginning of
sequence or a token that joins prompt and answer is something that inference never feeds, and a row whose prompt
alone fills `max_length` has nothing left to learn. Labels off by one teach the model to copy its input, with a lower
loss than the right ones.

Cure: `ftdoctor.training.Encoder(tokenizer, max_length=..., too_long=...)`, and look at `counts` and `shown`. By hand:
render with the chat template, never search for a response template, and hand `labels` equal to `input_ids` where
scored; models shift them themselves.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ftdoctor.bench import masks
from ftdoctor.bench.reference import loss_error, mean_loss
from ftdoctor.bench.rows import messages
from ftdoctor.bench.watch import undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

IGNORED = -100
CHAT = [*messages("Say hello.", "Hello there, 東京!"), *messages("And now?", "Good bye.\n")]
JOINED = ("Say o", "ne")
"""The tokenizers of the bench have a token for the `on` of `one`."""
LONG = ("What do bees make? " * 8, "Honey.")
LIMIT = 40
LABELLED = {"ours": "this component labels it", "naive": "a script labels it", "library": "TRL labels it"}


class Row(NamedTuple):
    """Tokens and labels of one row."""

    ids: list[int]
    labels: list[int]


@probe(
    area="components",
    needs=("transformers", "trl", "datasets"),
    axes=("family", "device"),
    references=("huggingface/trl#3927", "huggingface/trl#6320", "huggingface/transformers#23530"),
)
def scored_tokens(bench: Bench, check: Check) -> None:
    """Encode rows as the component, a script and TRL do, and read tokens and labels."""
    from ftdoctor.training import Encoder

    ways: dict[str, Any] = {"ours": _ours, "naive": _by_hand, "library": partial(_by_trl, bench)}
    marked, unmarked = bench.tokenizer(), _without_marks(bench.tokenizer())
    chat, answers = {"messages": CHAT}, _answers(marked)

    def compare(name: str, read: Callable[[Any], Any], wanted: Any, why: str) -> None:
        measured = {way: attempt(partial(read, encode)) for way, encode in ways.items()}
        ours = measured.pop("ours")
        if isinstance(ours, Exception):
            raise ours
        check.equal(name, ours, wanted, why=why, beside=measured, owner=Encoder)

    compare(
        "scored text",
        lambda encode: _scored(marked, encode(marked, chat, None)),
        answers,
        "what the chat template adds to each prompt when it renders the answer",
    )
    for way, encode in ways.items():
        row = attempt(partial(encode, marked, chat, None))
        if not isinstance(row, Exception):
            masks.record(check, marked, f"a chat as {LABELLED[way]}", row.ids, row.labels, answers)
    compare(
        "scored text without marks in the template",
        lambda encode: _scored(unmarked, encode(unmarked, chat, None)),
        answers,
        "most templates mark no generation; their text is the same",
    )
    begun = {"prompt": f"{marked.bos_token or ''}Say hello.", "completion": " Hello."}
    compare(
        "beginnings and ends of sequence around plain text",
        lambda encode: _around(marked, encode(marked, begun, None)),
        (int(marked.bos_token is not None), 1),
        "the prompt brings its beginning already, as rendered text does; one is enough, and one end",
    )
    pair = {"prompt": JOINED[0], "completion": JOINED[1]}
    compare(
        "row begins with the tokens that inference feeds",
        lambda encode: encode(marked, pair, None).ids[: len(marked(JOINED[0])["input_ids"])],
        marked(JOINED[0])["input_ids"],
        "the prompt tokenized alone",
    )
    long = {"messages": messages(*LONG)}
    compare(
        "scored text of a row whose prompt fills max_length",
        lambda encode: _scored(marked, encode(marked, long, LIMIT)),
        [text.replace("Good bye.\n", LONG[1]) for text in answers[1:]],
        f"the answer has room in {LIMIT} tokens, though the prompt has not",
    )
    _check_loss(bench, check, marked)


def _check_loss(bench: Bench, check: Check, tokenizer: Any) -> None:
    """Let the model score a row with the labels of each way, against the losses of the answer in float64."""
    import torch

    from ftdoctor.training import Encoder

    model = undisturbed(bench.load())
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    asked, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, _answers(tokenizer)[0]))
    ids = torch.tensor([asked + answer], device=bench.device)
    wanted = torch.tensor([[IGNORED] * len(asked) + answer])
    row = {"messages": CHAT[:2]}
    ours, library = (encode(tokenizer, row, None) for encode in (_ours, partial(_by_trl, bench)))

    def of(tokens: list[int], labels: list[int]) -> float:
        inputs = torch.tensor([tokens], device=bench.device)
        return float(model(input_ids=inputs, labels=torch.tensor([labels], device=bench.device)).loss)

    def of_seed() -> float:
        # The fix of a bug report: inputs and labels off by one, cut to fit, scored without a shift of the model's own.
        inputs, labels = asked + answer[:-1], ([IGNORED] * len(asked) + answer)[:-1]
        logits = model(input_ids=torch.tensor([inputs], device=bench.device)).logits[0].float()
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels, device=bench.device)))

    with torch.no_grad():
        logits = model(input_ids=ids).logits
        check.close(
            "loss of an answer",
            of(*ours),
            mean_loss(logits, wanted),
            atol=loss_error(logits, wanted),
            why="each token of the answer and its end by the logits of the position before; float64 against float32",
            beside={"naive": attempt(of_seed), "library": attempt(lambda: of(*library))},
            owner=Encoder,
        )


def _ours(tokenizer: Any, row: dict[str, Any], limit: int | None) -> Row:
    from ftdoctor.training import Encoder

    made = Encoder(tokenizer, max_length=limit, too_long="keep_end").encode(row) or {"input_ids": [], "labels": []}
    return Row(made["input_ids"], made["labels"])


def _by_hand(tokenizer: Any, row: dict[str, Any], limit: int | None) -> Row:
    """Do as scripts do: tokenize the rendered text, cut it, and score what follows the last response template."""
    if "messages" in row:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False)
        asked = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        response = asked.removeprefix(prompt) or "[/INST]"
    else:
        text, response = row["prompt"] + row["completion"], row["prompt"]
    ids = tokenizer(text, truncation=limit is not None, max_length=limit)["input_ids"]
    wanted = tokenizer(response, add_special_tokens=False)["input_ids"]
    starts = [i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted]
    begin = starts[-1] + len(wanted) if starts else len(ids)
    return Row(ids, [IGNORED] * begin + ids[begin:])


def _by_trl(bench: Bench, tokenizer: Any, row: Mapping[str, Any], limit: int | None) -> Row:
    """Let SFTTrainer prepare the row as it does by itself, with the option that is made for this."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    conversation = "messages" in row
    args = SFTConfig(
        output_dir=str(bench.new_folder("trl")),
        max_length=limit,
        assistant_only_loss=conversation,
        report_to=[],
        disable_tqdm=True,
        use_cpu=bench.device == "cpu",
        bf16=False,
    )
    data = Dataset.from_list([dict(row)])
    trainer = SFTTrainer(bench.model(), args=args, train_dataset=data, processing_class=tokenizer)
    if not len(trainer.train_dataset):
        return Row([], [])  # it drops rows of which nothing is left to score
    batch = trainer.data_collator([trainer.train_dataset[0]])
    return Row(batch["input_ids"][0].tolist(), batch["labels"][0].tolist())


def _without_marks(tokenizer: Any) -> Any:
    tokenizer.chat_template = re.sub(r"\{%-? *(end)?generation *-?%\}", "", tokenizer.chat_template)
    return tokenizer


def _answers(tokenizer: Any) -> list[str]:
    """Return what the template adds to each prompt, up to the end of turn."""
    found = []
    for i in range(1, len(CHAT), 2):
        prompt = tokenizer.apply_chat_template(CHAT[:i], tokenize=False, add_generation_prompt=True)
        found.append(tokenizer.apply_chat_template(CHAT[: i + 1], tokenize=False).removeprefix(prompt).rstrip())
    return found


def _scored(tokenizer: Any, row: Row) -> list[str]:
    """Return the text of each run of scored positions."""
    runs: list[list[int]] = [[]]
    for token, label in zip(row.ids, row.labels, strict=True):
        if label != IGNORED:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def _around(tokenizer: Any, row: Row) -> tuple[int, int]:
    """Return how many beginnings of sequence there are in a row, and how many scored ends."""
    return row.ids.count(tokenizer.bos_token_id), row.labels.count(tokenizer.eos_token_id)


def _relabelled(patch: Patch, change: Callable[[Row], Row]) -> None:
    """Let a function change what the encoder returns."""
    from ftdoctor.training.labels import Encoder

    def around(original: Any, self: Any, *args: Any) -> Any:
        made = original(self, *args)
        return None if made is None else dict(zip(made, change(Row(*made.values())), strict=True))

    patch.wrap(Encoder, "encode", around)


@scored_tokens.fault(
    "every token is scored",
    catches=(
        "scored text",
        "scored text without marks in the template",
        "scored text of a row whose prompt fills max_length",
        "loss of an answer",
    ),
)
def everything_scored(patch: Patch) -> None:
    """Labels are a copy of the inputs."""
    _relabelled(patch, lambda row: Row(row.ids, list(row.ids)))


@scored_tokens.fault("each position is scored against its own input", catches=("loss of an answer", "scored text"))
def own_input(patch: Patch) -> None:
    """The version of the bug report: `[-100] * len(prompt) + target` against `prompt + target[:-1]`."""

    def change(row: Row) -> Row:
        scored = [label != IGNORED for label in row.labels]
        late = [row.ids[i - 1] if i and scored[i - 1] else IGNORED for i in range(len(row.ids))]
        return Row(row.ids, late)

    _relabelled(patch, change)


@scored_tokens.fault(
    "the end of turn is not scored",
    catches=(
        "scored text",
        "scored text without marks in the template",
        "beginnings and ends of sequence around plain text",
    ),
)
def end_unscored(patch: Patch) -> None:
    """The model never learns to stop."""

    def change(row: Row) -> Row:
        last = max(i for i, label in enumerate(row.labels) if label != IGNORED)
        return Row(row.ids, [*row.labels[:last], IGNORED, *row.labels[last + 1 :]])

    _relabelled(patch, change)


@scored_tokens.fault(
    "the beginning of sequence is added to text that has one",
    catches=("beginnings and ends of sequence around plain text",),
)
def second_beginning(patch: Patch) -> None:
    """As tokenizing rendered text does."""
    from ftdoctor.training.labels import Encoder

    def around(original: Any, self: Any, ids: Any, labels: Any, found: Any) -> Any:
        return self._front + ids, [IGNORED] * len(self._front) + labels

    patch.wrap(Encoder, "_with_one_beginning", around)


@scored_tokens.fault(
    "prompt and answer are joined in one token", catches=("row begins with the tokens that inference feeds",)
)
def joined(patch: Patch) -> None:
    """The text is tokenized as a whole."""
    from ftdoctor.training import tokenizing

    def around(original: Any, tokenizer: Any, ids: Any, piece: Any, whole: Any) -> Any:
        return whole

    patch.wrap(tokenizing, "_continued", around)


@scored_tokens.fault("long rows are cut at their end", catches=("scored text of a row whose prompt fills max_length",))
def cut_at_the_end(patch: Patch) -> None:
    """As tokenizers do with `truncation=True`."""
    from ftdoctor.training import truncating

    def around(original: Any, ids: Any, labels: Any, limit: int, front: int) -> Any:
        return truncating.Fitted(ids[:limit], labels[:limit])

    patch.wrap(truncating, "keep_end", around)


@scored_tokens.fault(
    "only the last answer is found where nothing is marked",
    catches=("scored text without marks in the template",),
)
def last_alone(patch: Patch) -> None:
    """As with a search for the response template."""
    from ftdoctor.training import labels

    def around(original: Any, tokenizer: Any, chat: Any, **settings: Any) -> Any:
        if "generation %}" not in tokenizer.chat_template:
            settings["turns"] = "last"
        return original(tokenizer, chat, **settings)

    patch.wrap(labels, "render_answers", around)
