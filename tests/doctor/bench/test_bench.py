"""What probes work on is real: families by their own classes, tokenizers of their size, templates that round-trip."""

from __future__ import annotations

import json

import pytest

import ftdoctor_matrix as matrix
from ftdoctor.bench import Bench, tokenizers
from ftdoctor.bench.rows import messages
from ftdoctor.cells import Cell
from ftdoctor.settings import Settings

# What the libraries warn each other of is no concern of these tests.
pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
FAMILIES = list(matrix.families())


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(tmp_path, cache):
    """Make a bench of some axis values."""
    return lambda model="", **values: Bench(Cell.of(values), tmp_path, Settings(cache=str(cache), model=model))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_of_its_familys_own_classes(bench, family):
    """Two layers, real checkpoint, loaded back through the Auto classes."""
    made = bench(family=family)
    loaded = made.load()
    entry = matrix.families()[family]

    assert type(loaded).__name__ == entry.model_class
    assert type(loaded.config).__name__ == entry.config_class
    assert loaded.config.num_hidden_layers == 2
    assert sorted(p.suffix for p in made.checkpoint().glob("*.safetensors")) == [".safetensors"]


@pytest.mark.parametrize("style", tokenizers.STYLES)
@pytest.mark.parametrize(("vocabulary", "size"), tokenizers.SIZES.items())
def test_a_tokenizer_has_exactly_its_size_and_loses_no_byte(cache, style, vocabulary, size):
    """Special tokens are single tokens."""
    tokenizer = tokenizers.build(style, vocabulary, cache)
    look = tokenizers.STYLES[style]

    assert len(tokenizer) == size
    assert tokenizer.decode(tokenizer.encode(Bench.text, add_special_tokens=False)) == Bench.text
    assert all(len(tokenizer.encode(t, add_special_tokens=False)) == 1 for t in look.specials)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (look.bos, look.eos, look.pad)


RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>",
}


@pytest.mark.parametrize("style", RENDERED)
def test_a_chat_is_rendered_as_the_style_says(cache, style):
    """System, user, assistant."""
    tokenizer = tokenizers.build(style, "512", cache)
    chat = [{"role": "system", "content": "Be brief."}, *messages("Hi", "Hello")]

    assert tokenizer.apply_chat_template(chat, tokenize=False) == RENDERED[style]


@pytest.mark.parametrize("style", RENDERED)
def test_the_template_marks_what_the_assistant_writes(cache, style):
    """So that TRL can score the answers alone."""
    tokenizer = tokenizers.build(style, "512", cache)
    rendered = tokenizer.apply_chat_template(
        messages("Hi", "Hello"), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [t for t, m in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if m]

    assert tokenizer.decode(marked).strip() == f"Hello{tokenizer.eos_token}"


@pytest.mark.parametrize("style", RENDERED)
def test_exactly_the_answer_and_its_end_of_turn_are_labelled(cache, style):
    """And what is put together is what the template renders."""
    from ftdoctor.bench.rows import encode

    tokenizer = tokenizers.build(style, "512", cache)
    row = encode(tokenizer, "Hi", "Hello")
    scored = [label for label in row["labels"] if label != -100]

    assert tokenizer.decode(scored).strip() == f"Hello{tokenizer.eos_token}"
    assert tokenizer.apply_chat_template(messages("Hi", "Hello"), tokenize=False).startswith(
        tokenizer.decode(row["input_ids"])
    )


def test_the_same_cell_gives_the_same_model(bench):
    """Seeded."""
    import torch

    first, second = bench(family="llama").model(), bench(family="llama").model()

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_a_trainer_takes_real_steps(bench, trainer):
    """Through the library's own class, silently."""
    made = bench(trainer=trainer)
    run = made.trainer(made.trainable(), made.tokenizer())
    run.train()

    assert type(run).__name__ == {"plain": "Trainer", "sft": "SFTTrainer"}[trainer]
    assert run.state.global_step == 4


def test_the_users_model_takes_the_place_of_the_tiny_one(bench, tmp_path):
    """Its tokenizer, config and weights."""
    theirs = bench(family="qwen3", vocabulary="512")
    folder = theirs.checkpoint()
    made = bench(model=str(folder), family="llama")

    assert type(made.config()).__name__ == "Qwen3Config"
    assert made.checkpoint() == folder
    assert made.family.name == "qwen3"
    assert made.tokenizer().eos_token == "<|im_end|>"


def test_a_check_of_the_users_model_runs_from_the_command_line(bench, ftdoctor, tmp_path):
    """The axes that the model decides are gone from the cells."""
    folder = bench(family="qwen3").checkpoint()
    done = ftdoctor(
        "check",
        "--profile",
        "quick",
        "--probe",
        "tokenizer-reload",
        "--probe",
        "model-load",
        "--model",
        str(folder),
        "--json",
    )
    report = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert report["model"] == str(folder)
    assert {axis for r in report["results"] for axis in r["cell"]}.isdisjoint({"family", "vocabulary"})
