"""Predictions stand as a table in the run that the Trainer itself has begun in trackio, TensorBoard and wandb."""

from __future__ import annotations

import contextlib
import html.parser
import json
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.prediction import reporters
from ftdoctor.prediction.rows import PredictionRow

PROJECT = Path(__file__).parents[3]
STEPS = [1, 2, 3, 4]
HOSTILE = "</script><b>x</b>|a\nb`c` \\x00 \\ud800 [x](javascript:1) $y$ &amp; \\x1b[31m ä 日本"
"""What `reporting.py` writes, as it is shown."""
LONG = "m" * 2_000 + " … (998000 more characters)"


def train(folder, python, *names):
    """Train with these reporters, and return what the callback has found."""
    environment = {
        **os.environ,
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
    }
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_ERROR_REPORTING": "false"}
    command = [python, str(Path(__file__).with_name("reporting.py")), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reporters")
    return folder, train(folder, sys.executable, "tensorboard")


def row(**changes):
    told = {"id": "0" * 32, "job": "", "user": "", "epoch": 1.0, "step": 7, "sample_index": 0, "prompt": "p"}
    told |= {"ground_truth": "t", "prediction": "x", "error": None, "seconds": 0.0, "tokens": 1, "model_dtype": "f"}
    return PredictionRow(**{**told, "created_at": "", **changes})


class Cells(html.parser.HTMLParser):
    """The texts of the cells of a table, and the tags that stand in them."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "td":
            self.texts.append("")
        elif self.inside and tag == "br":
            self.texts[-1] += "\n"
        elif self.inside:
            self.tags.append(tag)
        self.inside = self.inside or tag == "td"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


@pytest.mark.stack
def test_tensorboard_takes_the_table_at_each_step_and_no_random_number_is_drawn(run):
    assert run[1] == {"taken": [["tensorboard"]] * 4, "drawn": [False] * 4}


@pytest.mark.stack
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_the_texts_as_they_are_in_the_file_of_the_trainer(run):
    """One file, with the Trainer's scalars; on the page hostile texts are letters, whatever markup they hold."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    (file,) = (run[0] / "run").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload()
    tables = events.Tensors("predictions/text_summary")
    assert [event.step for event in events.Scalars("train/loss")] == STEPS
    assert [event.step for event in tables] == STEPS
    for event in tables:
        cells = Cells(markdown_to_safe_html(event.tensor_proto.string_val[0]))
        first = [str(event.step), "3", f"p{HOSTILE}", "", HOSTILE, ""]
        assert cells.texts == [*first, str(event.step), "5", "q", LONG, "", "ValueError"]
        assert cells.tags == []


@pytest.mark.other_stack
def test_trackio_and_wandb_have_the_tables_in_the_runs_of_the_trainer(tmp_path, build, pins):
    """In an environment of their own: trackio moves huggingface-hub beside older stacks, wandb is heavy."""
    same = pins("torch", "transformers", "accelerate", "datasets", "huggingface-hub", "numpy")
    python = build(tmp_path / "venv", *same, str(PROJECT), "trackio", "wandb")

    assert train(tmp_path, python, "trackio", "wandb") == {"taken": [["trackio", "wandb"]] * 4, "drawn": [False] * 4}
    check_trackio(tmp_path / "trackio")
    check_wandb(tmp_path / "wandb")


def check_trackio(folder):
    """One run, the Trainer's; its own counter of steps goes on, and every loss is there."""
    (file,) = folder.glob("*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    logged = [json.loads(metrics) for _, _, metrics in found]
    tables = [(m["train/global_step"], m["predictions"]["_value"]) for m in logged if "predictions" in m]
    assert len({name for name, _, _ in found}) == 1
    assert [step for _, step, _ in found] == list(range(len(found)))
    assert [m["train/global_step"] for m in logged if "train/loss" in m] == STEPS
    assert [step for step, _ in tables] == STEPS
    for step, (first, second) in tables:
        assert list(first) == list(reporters.COLUMNS)
        assert list(first.values()) == [step, 3, f"p{HOSTILE}", "", HOSTILE, ""]
        assert list(second.values()) == [step, 5, "q", LONG, "", "ValueError"]


def check_wandb(folder):
    """One run, offline; files are named by its own steps, which count what the Trainer logs too."""
    (run,) = folder.glob("offline-run-*")
    tables = {int(f.name.split("_")[1]): json.loads(f.read_text()) for f in run.rglob("predictions_*.table.json")}
    assert sorted(tables) == [0, 2, 4, 6]
    for step, at in zip(STEPS, sorted(tables), strict=True):
        assert tables[at]["columns"] == list(reporters.COLUMNS)
        assert [line[0] for line in tables[at]["data"]] == sorted(2 * STEPS[:step])
        assert tables[at]["data"][-2] == [step, 3, f"p{HOSTILE}", "", HOSTILE, ""]
        assert tables[at]["data"][-1] == [step, 5, "q", LONG, "", "ValueError"]


@pytest.mark.stack
@pytest.mark.filterwarnings("ignore")
def test_a_reporter_that_cannot_is_named_once_and_stops_nothing(caplog, monkeypatch):
    monkeypatch.setattr(reporters, "_told", set())
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "trackio", None)
    with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
        for _ in range(3):
            assert reporters.report_table([row()], [row()], ["wandb", "tensorboard", "trackio", "mlflow"]) == []
    told = [record.getMessage() for record in caplog.records if record.name == "ftdoctor.prediction"]
    assert len(told) == 3
    assert told[0].startswith("No table of predictions in wandb: ModuleNotFoundError")
    assert told[1].endswith("the Trainer has no writer for it")
    assert told[2].startswith("No table of predictions in trackio: ModuleNotFoundError")


def test_nothing_is_done_where_the_trainer_reports_to_nothing_or_there_are_no_rows():
    assert reporters.report_table([row()], [row()], []) == []
    assert reporters.report_table([], [], ["tensorboard", "wandb", "trackio"]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ""),
        ("", ""),
        ("a\tb\nc", "a\tb\nc"),
        ("\x00\x1b\x85\u2028\udfff", "\\x00\\x1b\\x85\\u2028\\udfff"),
        ("日本\u3000é 👩\u200d🚀", "日本\u3000é 👩\u200d🚀"),
        ("x" * 2_000, "x" * 2_000),
        ("x" * 2_001, "x" * 2_000 + " … (1 more character)"),
    ],
)
def test_texts_are_shown_whole_up_to_a_length_and_without_what_a_page_cannot_hold(text, expected):
    assert reporters.shown(text) == expected
