"""`ftdoctor predictions` as a user meets it: table, page, JSON, exit statuses, and texts that are meant to break it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.prediction.rows import PredictionRow
from ftdoctor.prediction.stored import to_json
from ftdoctor.prediction.writers import open_writer

HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy", "sqlalchemy", "httpx")
ERROR = "RuntimeError: expected scalar type Float but found BFloat16"
EVIL = "</script>\x1b[31mred\x1b]0;title\x07 \x00 \ud800 \u202egnirts \u200b \x85 \r\n[bold]markup[/bold] :smile: שלום"


def row(step, sample, prediction, truth="It is 8.", **changes):
    base = dict(
        id=f"{step:016x}{sample:016x}", job="run-1", user="ada", epoch=step / 20, step=step, sample_index=sample,
        prompt=f"<|im_start|>user\nWhat is {sample} plus one?<|im_end|>\n<|im_start|>assistant\n", ground_truth=truth,
        prediction=prediction, error=None if prediction is not None else ERROR, seconds=0.1, tokens=6,
        model_dtype="bfloat16", created_at=f"2026-11-21T10:00:{step:02}.000000+00:00", finish="stop",
    )  # fmt: skip
    return PredictionRow(**{**base, **changes})


COURSE = [
    row(0, 3, "the the the"), row(0, 5, "the the"),
    row(10, 3, "It is 7."), row(10, 5, None),
    row(20, 3, "It is 8."), row(20, 5, None), row(20, 6, ""), row(20, 7, "x", None),
    row(5, 3, "other", job="run-0", created_at="2026-11-20T10:00:00.000000+00:00"),
]  # fmt: skip


@pytest.fixture
def predictions(ftdoctor, tmp_path):
    """Call the command on a file of these rows."""

    def call(rows, *options, name="run.jsonl", **more):
        (tmp_path / name).write_bytes(b"\n".join(map(to_json, rows)))
        return ftdoctor("predictions", name, *options, **more)

    return call


def test_the_table_shows_the_last_step_of_the_newest_job(predictions):
    """Changes since the step before, errors in place of a prediction, and the course below."""
    done = predictions(COURSE, "--width", "100")

    assert (done.returncode, done.stderr) == (0, "")
    assert "job run-1 of ada: 3 steps (0 to 20), 4 samples, 2 predictions failed" in done.stdout
    assert "step 20: 1 of 2 exact, mean similarity 0.50, 1 failed" in done.stdout
    assert "also here: run-0; --job NAME shows another" in done.stdout
    cells = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    by_sample = {cell[0]: cell[1:] for cell in cells}
    assert by_sample["3"][1:] == ["It is 8.", "It is [-7-]{+8+}.", "✓", "1.00", "6"]
    assert by_sample["5"][1:3] == ["It is 8.", "RuntimeError: expected"]
    assert by_sample["5"][3:] == ["✗ failed", "-", "-"]
    assert by_sample["6"][1:4] == ["It is 8.", "(empty)", "no"]
    assert by_sample["7"][1:4] == ["none", "x", "-"]
    assert by_sample["20"] == ["1 of 2", "0.50", "✗ 1 of 4"]
    assert "What is 3" in done.stdout
    assert "im_start" not in done.stdout
    assert "similarity 0.00 ▁▇▅ 0.50" in done.stdout


@pytest.mark.parametrize("width", [40, 60, 80])
def test_narrow_terminals_lose_nothing(predictions, width):
    """No line is wider, and every prediction and error is there."""
    done = predictions(COURSE, "--width", str(width), "--all")
    text = " ".join(done.stdout.split())

    assert max(len(line) for line in done.stdout.splitlines()) <= width
    for words in ("It is [-7-]{+8+}.", "(empty)", "none"):
        assert words in text
    assert text.count("BFloat16") == 2
    assert "\x1b" not in done.stdout


def test_steps_samples_and_jobs_can_be_chosen(predictions):
    """Several of each; --all takes every step."""

    def told(*options):
        done = predictions(COURSE, "--json", *options)
        return [(r["job"], r["step"], r["sample_index"]) for r in json.loads(done.stdout)["rows"]]

    assert told("--step", "0", "--step", "20", "--sample", "3") == [("run-1", 0, 3), ("run-1", 20, 3)]
    assert told("--job", "run-0") == [("run-0", 5, 3)]
    assert len(told("--all-jobs")) == len(COURSE)
    history = predictions(COURSE, "--sample", "3", "--all").stdout
    assert [line for line in history.splitlines() if line.startswith("step ") and "epoch" in line] == [
        "step 0 (epoch 0)", "step 10 (epoch 0.5)", "step 20 (epoch 1)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--step", "7"], "There are no predictions of step 7; there are of 0, 10, 20."),
        (["--sample", "4"], "There are no predictions of sample 4; there are of 3, 5, 6, 7."),
        (["--job", "run1"], "There is no job 'run1' (did you mean 'run-1'?); there are run-1, run-0."),
        (["--step", "0", "--sample", "7"], "The samples that --sample names have no prediction at the steps that --step names."),
        (["--html", "run.jsonl/x.html"], "The page run.jsonl/x.html cannot be written: File exists; name another file."),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_status_2(predictions, options, sentence):
    """What there is instead is said."""
    done = predictions(COURSE, *options)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ftdoctor: {sentence}\n")


@pytest.mark.parametrize("named", ["run.jsonl", "./run.jsonl", "link.jsonl"])
def test_a_page_never_replaces_the_predictions(predictions, tmp_path, named):
    """However the file is called."""
    predictions(COURSE)
    before = (tmp_path / "run.jsonl").read_bytes()
    (tmp_path / "link.jsonl").symlink_to("run.jsonl")

    done = predictions(COURSE, "--html", named)

    assert done.returncode == 2
    assert f"The page {Path(named)} would replace the predictions themselves; name another file." in done.stderr
    assert (tmp_path / "run.jsonl").read_bytes() == before


def test_all_failed_at_the_last_step_is_status_1(predictions, tmp_path):
    """In each form; the failures before it do not matter."""
    rows = [row(0, 3, "fine"), row(10, 3, None), row(10, 4, None)]

    for options in ([], ["--json"], ["--html", "page.html"]):
        assert predictions(rows, *options).returncode == 1
    assert predictions(rows, "--step", "0").returncode == 0
    assert "all 2 predictions failed" in predictions(rows).stdout


def test_no_predictions_is_status_3(predictions, tmp_path):
    """And no page is written."""
    done = predictions([], "--html", "page.html")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("ftdoctor: run.jsonl holds no predictions")
    assert not (tmp_path / "page.html").exists()


def test_a_source_that_is_not_there_is_status_2(ftdoctor):
    """One sentence."""
    done = ftdoctor("predictions", "nowhere.db")

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_password_in_the_source_is_never_shown(ftdoctor):
    """Neither where it fails."""
    done = ftdoctor("predictions", "postgresql://ada:hunter2@127.0.0.1:1/runs", "--html", "page.html")

    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr


def test_the_page_names_a_database_without_its_password():
    """Only scheme, host and name."""
    from ftdoctor.cli.predictions_command import _called

    assert (
        _called("postgresql+psycopg://ada:hunter2@host:5432/runs?password=x") == "postgresql+psycopg://host:5432/runs"
    )
    assert _called("deep/folder/run.db") == "run.db"


def test_a_sqlite_file_becomes_a_page(ftdoctor, tmp_path):
    """The whole way from the writer to the file that a browser opens."""
    writer = open_writer(str(tmp_path / "run.db"))
    writer.write([*COURSE, row(20, 8, EVIL)])
    writer.close()
    done = ftdoctor("predictions", "run.db", "--html", "pages/run.html")
    page = (tmp_path / "pages" / "run.html").read_text(encoding="utf-8")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "step 20: 1 of 3 exact, mean similarity 0.33, 1 failed; page: pages/run.html\n"
    assert 'id="sample-8-step-20"' in page
    assert "&lt;/script&gt;" in page
    assert "run.db" in page


def test_json_holds_the_rows_and_their_numbers(predictions):
    """Whatever a text holds comes back the same, in ASCII."""
    done = predictions([*COURSE, row(20, 8, EVIL)], "--json")
    document = json.loads(done.stdout)
    by_key = {(r["step"], r["sample_index"]): r for r in document["rows"]}

    assert done.stdout.isascii()
    assert document["schema"] == "ftdoctor.predictions/1"
    assert document["jobs"] == ["run-1", "run-0"]
    assert by_key[20, 8]["prediction"] == EVIL
    assert (by_key[20, 3]["exact"], by_key[20, 3]["similarity"]) == (True, 1.0)
    assert (by_key[10, 3]["exact"], by_key[10, 3]["similarity"]) == (False, 0.75)
    assert (by_key[20, 5]["exact"], by_key[20, 5]["similarity"], by_key[20, 5]["error"]) == (None, None, ERROR)
    assert [(s["step"], s["failed"], s["exact"]) for s in document["steps"]] == [(0, 0, 0), (10, 1, 0), (20, 1, 1)]


@pytest.mark.parametrize("width", ["40", "100"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_hostile_texts_steer_no_terminal(predictions, encoding, width):
    """Everywhere a text of the model can stand; all of it is shown with --full."""
    rows = [
        row(0, 1, "fine", job=EVIL, user=EVIL),
        row(10, 1, EVIL, EVIL, prompt=EVIL, job=EVIL, user=EVIL),
        row(10, 2, None, EVIL, error=EVIL, job=EVIL),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = predictions(rows, "--full", "--width", width, env=environment)
    text = "".join(done.stdout.split())

    assert (done.returncode, done.stderr) == (0, "")
    assert not set(done.stdout) & set("\x1b\x00\x07\x85\r\u202e\u200b")
    for words in (
        "\\x1b[31mred",
        "\\x00",
        "\\ud800",
        "\\u202egnirts",
        "\\u200b",
        "\\x85",
        "\\r",
        "[bold]markup[/bold]",
        ":smile:",
    ):
        assert words in text, words


def test_a_megabyte_is_shortened(predictions):
    """In a moment, unless --full asks for all of it."""
    rows = [
        row(0, 1, "a " * (1 << 19)),
        row(10, 1, "a " * (1 << 19) + "end"),
        row(10, 2, "x" * (1 << 20)),
        row(10, 3, "\n" * 10_000),
    ]
    done = predictions(rows)

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) < 60
    assert "{+end+}" in done.stdout


def test_colours_mark_changes_on_a_terminal(tmp_path):
    """Struck and underlined, not by colour alone; NO_COLOR brings the marks of a log file."""
    (tmp_path / "run.jsonl").write_bytes(b"\n".join(map(to_json, COURSE)))

    def on_a_terminal(**more):
        environment = (
            {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
            | {"TERM": "xterm-256color", "COLUMNS": "100"}
            | more
        )
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "ftdoctor", "predictions", "run.jsonl"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=slave, stderr=slave, stdin=slave)
        os.close(slave)
        found = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            found += piece
        process.wait()
        os.close(master)
        return found.decode()

    assert "It is \x1b[9;31m7\x1b[0m\x1b[4;32m8\x1b[0m." in on_a_terminal()
    assert "It is [-7-]{+8+}." in re.sub(r"\x1b\[[\d;]*m", "", on_a_terminal(NO_COLOR="1"))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run.jsonl"], ["run.jsonl", "--html", "x.html"], ["nowhere"]], ids=" ".join
)
def test_nothing_heavy_is_imported(arguments, tmp_path):
    """Where a file is read."""
    (tmp_path / "run.jsonl").write_bytes(b"\n".join(map(to_json, COURSE)))
    program = (
        "import sys\nfrom ftdoctor.cli import main\n"
        f"sys.argv = ['ftdoctor', 'predictions', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.splitlines()[-1] == "HEAVY []"
