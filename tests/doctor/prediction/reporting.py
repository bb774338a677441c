"""A training that shows predictions in its reporters: what `test_reporters.py` starts.

    python reporting.py FOLDER REPORTER...

Writes what it finds to FOLDER/found.json.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from pathlib import Path

import numpy
import torch
from transformers import TrainerCallback

from ftdoctor.bench import Bench
from ftdoctor.cells import Cell
from ftdoctor.prediction import reporters
from ftdoctor.prediction.rows import PredictionRow, new_id, now
from ftdoctor.settings import Settings

HOSTILE = "</script><b>x</b>|a\nb`c` \x00 \ud800 [x](javascript:1) $y$ &amp; \x1b[31m ä 日本"


def made(step):
    """Return the rows of a step: a hostile one, and one that failed, of a megabyte."""
    told = {
        "job": "job",
        "user": "",
        "epoch": None,
        "step": step,
        "seconds": 0.1,
        "tokens": 1,
        "model_dtype": "float32",
    }
    first = {"sample_index": 3, "prompt": f"p{HOSTILE}", "ground_truth": None, "prediction": HOSTILE, "error": None}
    second = {
        "sample_index": 5,
        "prompt": "q",
        "ground_truth": "m" * 1_000_000,
        "prediction": None,
        "error": "ValueError",
    }
    return [PredictionRow(id=new_id(), created_at=now(), **told, **row) for row in (first, second)]


def states():
    """Return the state of each generator of random numbers that a training may draw from."""
    name, numbers, *more = numpy.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), (name, numbers.tolist(), *more)]


class Reports(TrainerCallback):
    """Shows rows at each step."""

    def __init__(self):
        self.rows, self.taken, self.drawn = [], [], []

    def on_step_end(self, args, state, control, **more):
        rows, before = made(state.global_step), states()
        self.rows += rows
        self.taken.append(reporters.report_table(rows, self.rows, args.report_to))
        self.drawn.append(before != states())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    bench = Bench(Cell.of({"adapter": "none", "trainer": "plain"}), folder, Settings(cache=str(folder)))
    args = bench.arguments(report_to=names, output_dir=str(folder / "run"))
    callback = Reports()
    bench.trainer(bench.model(), bench.tokenizer(), args, callbacks=[callback]).train()
    (folder / "found.json").write_text(json.dumps({"taken": callback.taken, "drawn": callback.drawn}))
