"""Labels and losses are those of an independent reference in float64, however the rows are cut and put together."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

PROGRAM = Path(__file__).with_name("reference_run.py")
TEMPLATES = {"llama3": "llama", "chatml": "qwen3", "mistral": "mistral"}
ENDS = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "mistral": "</s>"}
TOLERANCE = 1e-9
"""Of gradients, relative. Both are float64 sums of some 10**5 terms: 10**5 x 1.1e-16, with room for the layers between."""
LOGGED = 8 * 2**-24
"""Of losses, relative: the Trainer adds up what it logs in float32, at most eight micro-batches a step."""


@pytest.fixture(scope="module")
def program():
    """The module with the conversations, imported from beside this file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("reference_run", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a tiny model for each template."""
    from ftdoctor.bench import Bench
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings

    folder, cache = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("cache")
    for template, family in TEMPLATES.items():
        made = Bench(Cell.of({"family": family}), tmp_path_factory.mktemp(family), Settings(cache=str(cache)))
        shutil.copytree(made.checkpoint(), folder / template)
    return folder


def reference_labels(tokenizer, template, conversation):
    """Score the tokens that lie within an answer, found as text in the rendered conversation, and the end after it."""
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels, at = [-100] * len(encoded["input_ids"]), 0
    for message in conversation:
        at = text.index(message["content"], at)
        end = at + len(message["content"])
        if message["role"] == "assistant":
            end = text.index(ENDS[template], end) + len(ENDS[template])
            for i, (start, stop) in enumerate(encoded["offset_mapping"]):
                if at <= start + (text[start] == " ") and stop <= end:
                    labels[i] = encoded["input_ids"][i]
        at = end
    return encoded["input_ids"], labels


def reference(checkpoint, template, conversations):
    """Return loss and gradient: each row alone, in float64, by the definition of cross entropy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for conversation in conversations:
        ids, labels = reference_labels(tokenizer, template, conversation)
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        for position, label in enumerate(labels[1:]):
            if label != -100:
                row = logits[position]
                total = total + (row - row.max()).exp().sum().log() + row.max() - row[label]
                count += 1
    loss = total / count
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def expected(checkpoints, program):
    """Template to loss and gradient of the reference."""
    system = {"role": "system", "content": program.SYSTEM}
    conversations = [[system, *conversation] for conversation in program.CONVERSATIONS]
    return {template: reference(checkpoints / template, template, conversations) for template in TEMPLATES}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_labels_are_those_found_in_the_text(checkpoints, program, template):
    """Answers and their ends of turn, and nothing else."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints / template)
    system = {"role": "system", "content": program.SYSTEM}
    wanted = [reference_labels(tokenizer, template, [system, *c]) for c in program.CONVERSATIONS]

    assert [(row["input_ids"], row["labels"]) for row in program.rows(tokenizer)] == wanted


def assert_same(found, expected):
    loss, gradient = expected
    assert found["loss"] == pytest.approx(loss, rel=LOGGED)
    assert set(found["gradient"]) == set(gradient)
    for name, wanted in gradient.items():
        assert (found["gradient"][name] - wanted).norm() <= TOLERANCE * wanted.norm() + 1e-15, name


@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_and_gradient_are_the_references(checkpoints, program, expected, tmp_path, template, packed, accumulation):
    """Padded and packed, in one micro-batch and in eight."""
    found = program.step(checkpoints / template, tmp_path, packed=packed, accumulation=accumulation)

    assert_same(found, expected[template])


@pytest.fixture(scope="module")
def two_processes(checkpoints, tmp_path_factory):
    """What each of two gloo processes found: case to loss and gradient."""
    import torch

    folder = tmp_path_factory.mktemp("gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        with (folder / f"output-{rank}").open("w") as output:
            command = [sys.executable, str(PROGRAM), str(checkpoints), str(folder)]
            started.append(
                subprocess.Popen(
                    command, env={**os.environ, **place, **meeting}, stdout=output, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [process.wait(300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], [(folder / f"output-{rank}").read_text()[-2000:] for rank in (0, 1)]
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_two_processes_agree_with_the_reference(two_processes, expected, template):
    """Padded and packed, accumulated or not: both have the gradient of all rows."""
    for found in two_processes:
        cases = {case: result for case, result in found.items() if case[0] == template}
        assert len(cases) == 4
        for case, result in cases.items():
            _, gradient = expected[template]
            for name, wanted in gradient.items():
                assert (result["gradient"][name] - wanted).norm() <= TOLERANCE * wanted.norm() + 1e-15, (case, name)
    for case in two_processes[0]:
        both = [found[case]["loss"] for found in two_processes]
        assert sum(both) / 2 == pytest.approx(expected[case[0]][0], rel=LOGGED), case
