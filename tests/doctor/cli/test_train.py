"""`ftdoctor train`: an option for each setting, one sentence for each mistake, and a run that survives Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys

import pytest

from ftdoctor.training.recipe import PredictionPlan, Recipe

GOOD = json.dumps({"prompt": "What is one plus one?", "completion": "Two."}) + "\n"


def test_each_setting_of_a_recipe_is_an_option_with_its_help(ftdoctor):
    """And the help imports no torch."""
    shown = ftdoctor("train", "--help").stdout

    for field in (*dataclasses.fields(Recipe), *dataclasses.fields(PredictionPlan)):
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
        (("--config", "predict.toml"), "'predict_evry' (did you mean 'predict_every'?)"),
        (("--predict-every", "-1"), "predict_every = -1 is out of bounds"),
        (("--predict-every", "2", "--predict-samples", "0"), "predict_samples = 0 is out of bounds"),
        (("--predict-on", "data.jsonl"), "predict_on is given without predict_every, which says after how many steps"),
        (("--predict-samples", "2"), "give that too, as with --predict-every 50"),
    ],
)
def test_wrong_settings_are_told_by_name(ftdoctor, tmp_path, arguments, said):
    """On standard error, exit code 2."""
    (tmp_path / "data.jsonl").write_text(GOOD)
    (tmp_path / "typo.toml").write_text("learning_rat = 1.0\n")
    (tmp_path / "predict.toml").write_text("predict_evry = 1\n")
    done = ftdoctor("train", "--model", "m", "--dataset", "data.jsonl", "--output-dir", "run", *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_wins_over_the_configuration(tmp_path, monkeypatch):
    """A relative model stands beside the file, and so do rows to predict; predictions are no part of the recipe."""
    from ftdoctor.cli import train_command

    (tmp_path / "model").mkdir()
    (tmp_path / "held-out.jsonl").write_text(GOOD)
    config = 'model = "model"\nepochs = 3\nseed = 4\npredict_every = 50\npredict_on = "held-out.jsonl"\n'
    (tmp_path / "config.toml").write_text(config + "[inbox]\nsettle = 1\n")
    chosen = dict.fromkeys(field.name for kind in (Recipe, PredictionPlan) for field in dataclasses.fields(kind))
    chosen["config"] = str(tmp_path / "config.toml")
    recipe, plan = train_command._settings({**chosen, "seed": 9, "predict_samples": 2})
    without, off = train_command._settings({**chosen, "seed": 9, "predict_every": 0})

    assert (recipe.model, recipe.epochs, recipe.seed) == (str(tmp_path / "model"), 3.0, 9)
    assert plan == PredictionPlan(50, 2, str(tmp_path / "held-out.jsonl"))
    assert (without.fingerprint(), off.predict_every) == (recipe.fingerprint(), 0)


@pytest.mark.stack
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals are sent as on Linux")
def test_ctrl_c_stops_after_the_step_and_the_same_command_goes_on(ftdoctor, tmp_path, make_checkpoint):
    """With a checkpoint, exit code 130; then to the end, with adapter and page; each step has its predictions once."""
    from ftdoctor.prediction import read_predictions

    make_checkpoint(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(GOOD * 40)
    command = (
        "train", "--model", "model", "--dataset", "data.jsonl", "--output-dir", "run", "--max-steps", "60",
        "--batch-size", "1", "--gradient-accumulation", "1", "--lora-rank", "4",
        "--predict-every", "4", "--predict-samples", "1",
    )  # fmt: skip
    started = ftdoctor(*command, start=True)
    told = ""
    while "step 5 of" not in told:
        told += started.stderr.readline()
    started.send_signal(signal.SIGINT)
    stopped, rest = started.communicate(timeout=60)

    assert started.returncode == 130, rest
    step = int(re.search(r"stopped after step (\d+) with a checkpoint", stopped)[1])
    assert 5 <= step < 60
    assert not (tmp_path / "run" / "adapter").exists()
    before = read_predictions(tmp_path / "run" / "predictions.db")
    assert f"predictions: {len(before)} made, 0 failed; see: " in rest

    done = ftdoctor(*command)
    assert done.returncode == 0, done.stderr
    assert "(60 steps)" in done.stdout
    assert f"step {step} of" not in done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert "<svg" in (tmp_path / "run" / "summary.html").read_text()
    after = read_predictions(tmp_path / "run" / "predictions.db")
    assert f"predictions: {15 - len(before)} made, 0 failed; see: " in done.stderr
    assert after[: len(before)] == before
    assert [row.step for row in after] == list(range(4, 61, 4))


def questions(*numbers):
    rows = [{"prompt": f"What is {n} plus one?", "completion": f"{n + 1}."} for n in numbers]
    return "".join(json.dumps(row) + "\n" for row in rows)


TRAIN = (
    "train", "--model", "model", "--dataset", "data.jsonl", "--batch-size", "1", "--gradient-accumulation", "1",
    "--lora-rank", "4",
)  # fmt: skip


EACH = """
import contextlib, io, json, os, sys
from ftdoctor.cli import main

for arguments, environment in json.loads(sys.stdin.read()):
    os.environ.update(environment)
    sys.argv, out, err, status = ["ftdoctor", *arguments], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""
"""Several commands in one process: the stack is imported once."""


@pytest.fixture
def each(tmp_path):
    """Run commands, each with its environment, and return the status, output and errors of each."""

    def call(*commands):
        program = [sys.executable, "-c", EACH]
        run = subprocess.run(
            program, input=json.dumps(commands), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return [json.loads(line) for line in run.stdout.splitlines()]

    return call


@pytest.mark.stack
def test_sample_predictions_are_made_written_and_told_of_and_change_nothing(each, tmp_path, make_checkpoint):
    """Of rows of the dataset, or of another file, by the rules of the training; the adapter is that without them."""
    from ftdoctor.prediction import read_predictions

    make_checkpoint(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(questions(*range(20)))
    (tmp_path / "held-out.jsonl").write_text(questions(100, 101))
    train = (*TRAIN, "--max-steps", "5", "--system-prompt", "Be brief.", "--output-dir")
    own = (*train, "own", "--predict-every", "2", "--predict-samples", "3")
    held_out = (*train, "held out", "--predict-every", "5", "--predict-on", "held-out.jsonl")
    done = each(((*train, "plain"), {}), ((*own, "--json"), {}), (held_out, {}), (own, {}))
    _, printed, told = zip(*done, strict=True)

    assert [status for status, _, _ in done] == [0, 0, 0, 0]
    assert "predictions" not in printed[0] + told[0]
    assert not (tmp_path / "plain" / "predictions.db").exists()
    assert json.loads(printed[1])["finished"]
    assert told[1].endswith("\npredictions: 6 made, 0 failed; see: ftdoctor predictions own/predictions.db\n")
    assert told[2].endswith("\npredictions: 2 made, 0 failed; see: ftdoctor predictions 'held out/predictions.db'\n")
    assert told[3].endswith("; see those from before: ftdoctor predictions own/predictions.db\n")
    adapters = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("plain", "own", "held out")]
    assert len({path.read_bytes() for path in adapters}) == 1

    made = read_predictions(tmp_path / "own" / "predictions.db")
    assert [row.step for row in made] == [2, 2, 2, 4, 4, 4]
    assert len({row.sample_index for row in made}) == 3
    for row in made:
        assert row.job == "own"
        assert "Be brief." in row.prompt
        assert f"What is {row.sample_index} plus one?" in row.prompt
        assert row.ground_truth == f"{row.sample_index + 1}."
    assert [row.ground_truth for row in read_predictions(tmp_path / "held out" / "predictions.db")] == ["101.", "102."]


@pytest.mark.stack
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (questions(1) + '{"text": "a"}\n', "held-out.jsonl line 2 has no column to train on"),
        (questions(1, 2) + '{"prompt": "a", "completion": ""}\n', "held-out.jsonl line 3: message 2, of the assistant"),
        (None, "held-out.jsonl does not exist"),
    ],
)
def test_rows_to_predict_that_are_wrong_are_told_with_their_line(ftdoctor, tmp_path, make_checkpoint, lines, said):
    """Before the folder is made, also of rows that are not drawn."""
    make_checkpoint(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(questions(*range(4)))
    if lines:
        (tmp_path / "held-out.jsonl").write_text(lines)
    predict = ("--predict-every", "1", "--predict-on", "held-out.jsonl", "--predict-samples", "1")
    done = ftdoctor(*TRAIN, "--output-dir", "run", *predict)

    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.stack
def test_no_predictions_are_told_as_such(each, tmp_path, make_checkpoint):
    """The run is trained all the same; a quiet one says its last line alone."""
    make_checkpoint(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(questions(*range(4)))
    train = (*TRAIN, "--max-steps", "1", "--output-dir")
    off, quiet, late = each(
        ((*train, "off", "--predict-every", "1"), {"FTDOCTOR_PREDICTIONS": "off"}),
        ((*train, "quiet", "--predict-every", "1", "--quiet"), {}),
        ((*train, "late", "--predict-every", "50"), {"FTDOCTOR_PREDICTIONS": "on"}),
    )

    assert [status for status, _, _ in (off, quiet, late)] == [0, 0, 0]
    assert off[2].endswith("\npredictions: none, for FTDOCTOR_PREDICTIONS is off\n")
    assert not (tmp_path / "off" / "predictions.db").exists()
    assert quiet[2] == ""
    assert len(quiet[1].splitlines()) == 1
    assert late[2].endswith("\npredictions: none, for no step of this call was a multiple of 50\n")


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
