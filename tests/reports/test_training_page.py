"""The page of a training run: complete, self-contained, and safe against what stands in a dataset."""

from __future__ import annotations

import re
import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest

from ftdoctor_reports import training

EVIL = "<script>alert(1)</script>"


def summary(**changes):
    document = {
        "schema": "ftdoctor.training/1",
        "finished": True,
        "steps": 4,
        "planned_steps": 4,
        "seconds": 12.5,
        "recipe": {"model": EVIL, "quantization": ["nf4", "int8"], "epochs": 1.0},
        "loading": {"versions": {"torch": "2.13.0"}},
        "loading_told": ["nf4 quantization", EVIL],
        "data": {},
        "data_told": [f"answers bare, such as {EVIL}"],
        "batch_plan": {"asked": "2 x 4", "begun": "2 x 4", "ended": "1 x 8", "out_of_memory": ["in the step after step 2"]},
        "memory": {"estimate": "3 GiB (weights 2 GiB)", "bytes": 3 * 1024**3, "measured": 2 * 1024**3},
        "first_loss": {"kind": "plausible", "possible": True, "loss": 6.2, "sentence": "The first loss is 6.2"},
        "bad_batches": [{"step": 3, "micro_batch": 1, "kind": "loss", "origin": EVIL, "file": "x.pt"}],
        "curves": [
            {"name": "loss", "steps": [1, 2, 3, 4], "values": [2.0, "nan", 1.5, 1.0]},
            {"name": "learning_rate", "steps": [1, 2, 3, 4], "values": [0.1, 0.1, 0.1, 0.1]},
            {"name": "own_metric", "steps": [1, 2], "values": [0.0, 1.0]},
            {"name": "once", "steps": [1], "values": [1.0]},
        ],
    }  # fmt: skip
    return {**document, **changes}


def test_it_holds_what_happened():
    """Verdict, first loss, dropped batches, data, batch plan, recipe, versions."""
    page = training.render(summary())

    for words in (
        "4 of 4 steps, finished", "The first loss is 6.2", "1 batch dropped", "1 x 8 (asked 2 x 4)", "in the step after step 2",
        "3 GiB (weights 2 GiB)", "2 GiB (the whole process)", "nf4, int8", "2.13.0", "12 s",
    ):  # fmt: skip
        assert words in page, words


def test_nothing_from_outside_becomes_part_of_the_page():
    """It loads nothing and runs nothing."""
    page = training.render(summary())

    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="', page)


def curves(page):
    drawn = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    return {
        re.search(r"<figcaption>(.*?)<", d)[1]: ET.fromstring(re.search(r"<svg.*</svg>", d, re.DOTALL)[0])
        for d in drawn
    }


def test_a_curve_is_interrupted_where_a_value_is_not_finite():
    """And drawn over the steps; a value that was logged once is no curve."""
    drawn = curves(training.render(summary()))
    lines = [line.get("points").split() for line in drawn["Loss (nats a token)"].iter("polyline")]

    assert list(drawn) == ["Loss (nats a token)", "Learning rate", "own_metric"]
    assert [len(points) for points in lines] == [1, 2]
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in lines[1])
    assert x2 > x1
    assert y2 > y1  # the loss falls: further down


def test_a_constant_is_a_level_line():
    """Not a division by zero."""
    (line,) = curves(training.render(summary()))["Learning rate"].iter("polyline")

    assert len({point.split(",")[1] for point in line.get("points").split()}) == 1


def test_an_impossible_first_loss_stands_out():
    """In the colour of a failure."""
    page = training.render(
        summary(first_loss={"possible": False, "sentence": "0.0 is impossible"}, finished=False, steps=2)
    )

    assert re.search(r'class="failed"[^>]*>0.0 is impossible', page)
    assert "2 of 4 steps, stopped; the same command goes on with it" in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_the_curves(tmp_path):
    """Chromium lays them out with a width and a height, and reports no error of its own policy."""
    page = tmp_path / "page.html"
    page.write_text(training.render(summary()))
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert "own_metric" in done.stdout
    assert "Refused to" not in done.stderr
