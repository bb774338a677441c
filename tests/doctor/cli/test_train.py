"""`ftdoctor train`: an option for each setting, one sentence for each mistake, and a run that survives Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys

import pytest

from ftdoctor.training.recipe import Recipe

GOOD = json.dumps({"prompt": "What is one plus one?", "completion": "Two."}) + "\n"


def test_each_setting_of_a_recipe_is_an_option_with_its_help(ftdoctor):
    """And the help imports no torch."""
    shown = ftdoctor("train", "--help").stdout

    for field in dataclasses.fields(Recipe):
        assert re.search(rf"--{field.name.replace('_', '-')}\b", shown), field.name
    assert "[default: 0.0002]" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (GOOD * 6 + "{\n", "data.jsonl line 7 is not JSON"),
        (GOOD + '{"text": "a"}\n', "data.jsonl line 2 has no column to train on"),
        ("", "data.jsonl is empty"),
        (GOOD + json.dumps({"prompt": "a" * 40_000_000, "completion": "b"}) + "\n", "data.jsonl line 2 is longer than 16 MiB"),
    ],
)  # fmt: skip
@pytest.mark.stack
def test_bad_data_is_one_sentence_with_its_line_before_anything_heavy_is_imported(ftdoctor, tmp_path, lines, said):
    """Exit code 2, nothing half-written, in the time of a command that trains nothing."""
    (tmp_path / "data.jsonl").write_text(lines)
    done = ftdoctor("train", "--model", "no-model", "--dataset", "data.jsonl", "--output-dir", "run")

    assert done.returncode == 2
    assert done.stderr.startswith("ftdoctor: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--quantization", "nf4,nf5"), "did you mean"),
        (("--learning-rate", "0"), "learning_rate = 0.0 is out of bounds"),
        (("--batch-size", "0"), "batch_size"),
        (("--turns", "first"), "turns"),
        (("--config", "no.toml"), "no.toml cannot be read"),
        (("--config", "typo.toml"), "'learning_rat' (did you mean 'learning_rate'?)"),
    ],
)
def test_wrong_settings_are_told_by_name(ftdoctor, tmp_path, arguments, said):
    """On standard error, exit code 2."""
    (tmp_path / "data.jsonl").write_text(GOOD)
    (tmp_path / "typo.toml").write_text("learning_rat = 1.0\n")
    done = ftdoctor("train", "--model", "m", "--dataset", "data.jsonl", "--output-dir", "run", *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_wins_over_the_configuration(tmp_path, monkeypatch):
    """A relative model stands beside the file."""
    from ftdoctor.cli import train_command

    (tmp_path / "model").mkdir()
    (tmp_path / "config.toml").write_text('model = "model"\nepochs = 3\nseed = 4\n[inbox]\nsettle = 1\n')
    chosen = dict.fromkeys(field.name for field in dataclasses.fields(Recipe))
    recipe = train_command._recipe({**chosen, "config": str(tmp_path / "config.toml"), "seed": 9})

    assert (recipe.model, recipe.epochs, recipe.seed) == (str(tmp_path / "model"), 3.0, 9)


@pytest.mark.stack
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals are sent as on Linux")
def test_ctrl_c_stops_after_the_step_and_the_same_command_goes_on(ftdoctor, tmp_path, make_checkpoint):
    """With a checkpoint, exit code 130; then to the end, with adapter and page."""
    make_checkpoint(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(GOOD * 40)
    command = (
        "train", "--model", "model", "--dataset", "data.jsonl", "--output-dir", "run", "--max-steps", "60",
        "--batch-size", "1", "--gradient-accumulation", "1", "--lora-rank", "4",
    )  # fmt: skip
    started = ftdoctor(*command, start=True)
    told = ""
    while "step 2 of" not in told:
        told += started.stderr.readline()
    started.send_signal(signal.SIGINT)
    stopped, rest = started.communicate(timeout=60)

    assert started.returncode == 130, rest
    step = int(re.search(r"stopped after step (\d+) with a checkpoint", stopped)[1])
    assert 2 <= step < 60
    assert not (tmp_path / "run" / "adapter").exists()

    done = ftdoctor(*command)
    assert done.returncode == 0, done.stderr
    assert "(60 steps)" in done.stdout
    assert f"step {step} of" not in done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert "<svg" in (tmp_path / "run" / "summary.html").read_text()


@pytest.fixture
def make_checkpoint(tmp_path):
    """Write a tiny model into a folder."""
    import shutil

    from ftdoctor.bench import Bench
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings

    def make(target):
        folder, cache = tmp_path / "bench", tmp_path / "cache"
        folder.mkdir()
        cache.mkdir()
        shutil.copytree(Bench(Cell.of({}), folder, Settings(cache=str(cache))).checkpoint(), target)

    return make
