"""Labels and losses equal a float64 reference that shares no code with them: padded, packed, accumulated, distributed.

The reference finds the answers in the rendered text by its own regular expressions, tokenizes the whole text once,
and runs each conversation alone through the model. Both compute in float64, so that little can hide in roundings.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# What the libraries warn each other of, such as TRL of `compute_loss_func`, is no concern of these tests.
pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

CONVERSATIONS, PACKED_ROWS = 48, 16
"""Both can be cut into one, two and eight micro-batches, in one process and in two."""

LOGGED = 8 * 2.0**-24
"""Of losses, relative: the Trainer adds up what it logs in float32, at most eight micro-batches a step."""

FAMILIES = {"llama3": "llama", "chatml": "qwen3", "mistral": "mistral"}
ANSWERS = {
    "llama3": r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)",
    "chatml": r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)",
    "mistral": r"\[/INST\](.*?</s>)",
}
"""Template to what a model is to write, end of turn included, as the only group."""


def conversations(pairs):
    """Return conversations of one to three turns, every third with a system prompt, answers from one word to many."""
    found = []
    for i in range(CONVERSATIONS):
        turns = [{"role": "system", "content": "Be brief."}] if i % 3 == 0 else []
        for k in range(1 + i % 3):
            question, answer = pairs[(5 * i + k) % len(pairs)]
            answer = " ".join([answer] * (1 + i % 4)) + (" Straße, 東京 🙂" if i % 5 == 0 else "")
            turns += [{"role": "user", "content": f"({i}) {question}"}, {"role": "assistant", "content": answer}]
        found.append({"messages": turns})
    return found


@dataclass
class Case:
    """The data of one template, and what must come of it."""

    family: str
    data: list
    rows: dict
    """`padded` and `packed` to encoded rows."""
    expected: list
    """Tokens and labels of each conversation."""
    loss: float
    gradient: dict
    error: float
    """What the same sums in another order may be away in float64, relative: forwards, and once more backwards."""


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    """Encode and pack the conversations of a template, and compute its reference."""
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


def make_case(template, folder):
    import torch

    from ftdoctor.bench import Bench
    from ftdoctor.bench.reference import relative_forward_error
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings
    from ftdoctor.training import Encoder, pack_rows

    bench = Bench(Cell.of({"family": FAMILIES[template], "adapter": "none"}), folder, Settings(cache=str(folder)))
    tokenizer, data = bench.tokenizer(), conversations(bench.rows(8))
    padded = Encoder(tokenizer).rows(data)
    tries = (pack_rows(padded, length) for length in range(max(len(row["input_ids"]) for row in padded), 1000))
    packed = next(rows for rows in tries if len(rows) == PACKED_ROWS)
    expected = [labelled(template, tokenizer, row["messages"]) for row in data]
    model = bench.model().double()
    total, items = torch.zeros((), dtype=torch.float64), 0
    for ids, labels in expected:
        scores = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        scored = [p for p in range(1, len(ids)) if labels[p] != -100]
        total = total - sum(scores[p - 1, labels[p]] for p in scored)
        items += len(scored)
    (total / items).backward()
    return Case(
        family=FAMILIES[template],
        data=data,
        rows={"padded": padded, "packed": packed},
        expected=expected,
        loss=float(total.detach()) / items,
        gradient={name: p.grad for name, p in model.named_parameters()},
        error=relative_forward_error(model.config, torch.float64),
    )


def labelled(template, tokenizer, messages):
    """Return tokens and labels of a conversation, by what stands where in its text."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = [match.span(1) for match in re.finditer(ANSWERS[template], text, re.DOTALL)]
    assert len(spans) == sum(message["role"] == "assistant" for message in messages)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = zip(found["input_ids"], found["offset_mapping"], strict=True)
    labels = [token if any(a <= begin and end <= b for a, b in spans) else -100 for token, (begin, end) in places]
    return found["input_ids"], labels


def test_labels_are_those_of_the_answers_and_their_ends_of_turn(case):
    """Token for token."""
    assert [(row["input_ids"], row["labels"]) for row in case.rows["padded"]] == case.expected


def test_padding_is_never_scored_and_nothing_else_is_lost(case, make_bench):
    """In a batch of all rows."""
    from ftdoctor.training import PaddingCollator

    batch = PaddingCollator.of(make_bench(family=case.family).tokenizer())(case.rows["padded"])
    longest = max(len(ids) for ids, _ in case.expected)

    assert batch["labels"].tolist() == [[*labels, *[-100] * (longest - len(labels))] for _, labels in case.expected]
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids, _ in case.expected]


def test_packed_rows_hold_every_conversation_once_with_its_labels(case):
    """Whole, wherever it stands."""
    found = []
    for row in case.rows["packed"]:
        end = 0
        for length in row["seq_lengths"]:
            end += length
            found.append((row["input_ids"][end - length : end], row["labels"][end - length : end]))

    assert len(case.rows["packed"]) == PACKED_ROWS
    assert sorted(found) == sorted(case.expected)


@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_loss_and_gradient_of_a_step_are_the_references(case, make_bench, trainer, kind, accumulation):
    """However the conversations are put into rows and the rows into micro-batches."""
    from datasets import Dataset

    from ftdoctor.bench.reference import distance
    from ftdoctor.bench.watch import gradient_recorder
    from ftdoctor.training import PaddingCollator, TokenMeanLoss, packed_collator

    bench, rows = make_bench(family=case.family, adapter="none", trainer=trainer), case.rows[kind]
    tokenizer, model, recorder = bench.tokenizer(), bench.model().double(), gradient_recorder()
    args = bench.arguments(
        max_steps=1,
        max_grad_norm=1e9,  # nothing is clipped, so that a factor on the whole gradient shows
        per_device_train_batch_size=len(rows) // accumulation,
        gradient_accumulation_steps=accumulation,
        remove_unused_columns=False,
        **({"dataset_kwargs": {"skip_prepare_dataset": True}} if trainer == "sft" else {}),
    )
    collator = packed_collator(model, tokenizer) if kind == "packed" else PaddingCollator.of(tokenizer)
    data = {"train_dataset": Dataset.from_list(rows), "data_collator": collator}
    made = bench.trainer(model, tokenizer, args, compute_loss_func=TokenMeanLoss(), callbacks=[recorder], **data)
    loss = made.train().training_loss

    assert loss == pytest.approx(case.loss, rel=LOGGED)
    assert distance(recorder.steps[0], case.gradient) <= 2 * case.error


def test_loss_and_gradient_of_two_processes_are_the_references(tmp_path):
    """Of which each has half of the rows; over gloo, padded and packed, accumulated by 1, 2 and 8."""
    import torch

    from ftdoctor.bench.reference import distance

    cases = {}
    for template in FAMILIES:
        (tmp_path / template).mkdir()
        cases[template] = make_case(template, tmp_path / template)
    rows = {template: (case.family, case.rows) for template, case in cases.items()}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, str(Path(__file__).with_name("launch.py")), "loss", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    for rank in (0, 1):
        found = torch.load(tmp_path / f"loss-{rank}.pt")
        assert len(found) == len(FAMILIES) * 2 * 3
        for (template, *where), (loss, gradient) in found.items():
            case = cases[template]
            assert loss == pytest.approx(case.loss, rel=LOGGED), where
            assert distance(gradient, case.gradient) <= 2 * case.error, where
