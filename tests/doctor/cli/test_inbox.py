"""`ftdoctor inbox` as a user meets it: exit statuses, sentences, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "datasets", "numpy", "watchdog")

PROGRAM = """
import sys, time
from types import SimpleNamespace
from ftdoctor.cli import inbox_command, main
from ftdoctor.errors import DataError


def train(recipe, dataset, folder, *, earlier, stop):
    text = dataset.read_text()
    if "bad" in text:
        raise DataError(f"{dataset}, line 1, is bad; mend it.")
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    steps = 0
    while "slow" in text and not stop():
        steps += 1
        (folder / "begun").touch()
        time.sleep(0.05)
    while "stuck" in text:
        (folder / "begun").touch()
        time.sleep(0.05)
    return SimpleNamespace(finished=not stop(), adapter=folder / "adapter", steps=steps, summary=folder / "summary.json")


inbox_command._train = lambda quiet: train
sys.argv[0] = "ftdoctor"
main()
"""


@pytest.fixture
def root(tmp_path):
    """A folder with a recipe, and a training run that is none."""
    folder = tmp_path / "root"
    (folder / "inbox").mkdir(parents=True)
    (folder / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 0\npoll = 60\n')
    return folder


@pytest.fixture
def put(root):
    def move(name, text):
        path = root / name
        path.write_text(json.dumps({"text": text}) + "\n")
        os.utime(path, (time.time() - 60,) * 2)
        return path.rename(root / "inbox" / name)

    return move


@pytest.fixture
def inbox(root):
    """Start the command on the folder; call it and get what it ended with, or with `start=True` the process."""
    started = []

    def call(*options, start=False, program=PROGRAM):
        process = subprocess.Popen(
            [sys.executable, "-c", program, "inbox", str(root), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        if start:
            return process
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    yield call
    for process in started:
        process.kill()
        process.communicate()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("arguments", [["--help"], ["nowhere"], [], ["--ones", "."]], ids=" ".join)
def test_help_and_mistakes_import_nothing_heavy(arguments, tmp_path):
    """Not even the library that watches."""
    program = (
        "import sys\nfrom ftdoctor.cli import main\n"
        f"sys.argv = ['ftdoctor', 'inbox', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, 'config.toml is missing; write one with at least model = "PATH".'),
        ("modle = 1", "config.toml: there is no setting 'modle' (did you mean 'model'?); there are "),
        ('model = "m"\n[inbox]\nsettle = "x"', "config.toml: inbox.settle = 'x' is not a number of seconds."),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence_and_status_2(inbox, root, put, config, sentence):
    """And the file stays where it is."""
    put("a.jsonl", "good")
    (root / "config.toml").unlink()
    if config is not None:
        (root / "config.toml").write_text(config)
    done = inbox("--once")

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"ftdoctor: {root}/{sentence}")
    assert (root / "inbox" / "a.jsonl").exists()


def test_a_folder_that_is_not_there(ftdoctor, tmp_path):
    """One sentence."""
    done = ftdoctor("inbox", "nowhere")

    assert (done.returncode, done.stderr) == (
        2,
        "ftdoctor: There is no folder nowhere; make it, and in it a config.toml that names the model.\n",
    )


def test_a_place_that_cannot_be_written_to_is_named(inbox, root):
    """By the system's reason."""
    (root / "adapters").write_text("")
    done = inbox("--once")

    assert done.returncode == 2
    assert done.stderr == f"ftdoctor: {root}/adapters: File exists; what was begun goes on at the next start.\n"


@pytest.mark.stack
def test_once_ends_with_status_0_when_all_were_trained(inbox, root, put):
    """Its lines stand on standard error."""
    put("a.jsonl", "good")
    done = inbox("--once")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "inbox: a.jsonl: trained: adapters/a"
    assert (root / "adapters" / "a" / "trained.json").exists()


@pytest.mark.stack
def test_once_ends_with_status_1_when_a_file_failed(inbox, root, put):
    """The others were trained."""
    put("a.jsonl", "bad")
    put("b.jsonl", "good")
    done = inbox("--once")

    assert done.returncode == 1
    assert "inbox: a.jsonl: failed: a.jsonl, line 1, is bad; mend it. (see failed/a.reason.txt)\n" in done.stderr
    assert (root / "adapters" / "b").exists()


@pytest.mark.stack
def test_quiet_says_nothing(inbox, put):
    """But errors."""
    put("a.jsonl", "good")
    done = inbox("--once", "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.stack
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_the_step(inbox, root, put, number, status):
    """The job stays, to go on at the next start."""
    put("a.jsonl", "slow")
    process = inbox(start=True)
    until((root / "work" / "a" / "run" / "begun").exists)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)

    assert process.returncode == status
    assert "inbox: stopping after the current step; once more for at once\n" in err
    assert "the next start goes on from there" in err.splitlines()[-1]
    assert (root / "work" / "a" / "data" / "a.jsonl").exists()


@pytest.mark.stack
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_while_it_waits(inbox, root, number, status):
    """At once, not after the next look."""
    process = inbox(start=True)
    assert process.stderr.readline() == f"inbox: watching {root}/inbox\n"
    begun = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == status
    assert time.monotonic() - begun < 30  # poll = 60


@pytest.mark.stack
def test_a_second_signal_ends_it_at_once_and_loses_nothing(inbox, root, put):
    """Where a step does not end."""
    put("a.jsonl", "stuck")
    process = inbox(start=True)
    until((root / "work" / "a" / "run" / "begun").exists)
    process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    (root / "work" / "a" / "data" / "a.jsonl").write_text(json.dumps({"text": "good"}) + "\n")
    done = inbox("--once")

    assert process.returncode == 128 + signal.SIGTERM
    assert done.returncode == 0
    assert (root / "archive" / "a.jsonl").exists()


@pytest.mark.stack
def test_a_second_watcher_is_refused(inbox, root):
    """By the process id of the first."""
    process = inbox(start=True)
    process.stderr.readline()
    done = inbox("--once")

    assert (done.returncode, done.stderr) == (
        2,
        f"ftdoctor: {root} is watched already, by process {process.pid}; an inbox has one watcher at a time.\n",
    )


def test_without_the_stack_it_says_what_to_install(inbox, root, put):
    """Before a file is taken."""
    put("a.jsonl", "good")
    hidden = "import importlib.util as u\nf = u.find_spec\nu.find_spec = lambda n, *a: None if n in ('torch', 'trl') else f(n, *a)\n"
    done = inbox("--once", program=hidden + PROGRAM)

    assert (done.returncode, done.stderr) == (
        2,
        "ftdoctor: Training needs torch, trl: pip install 'ftdoctor[stack]'.\n",
    )
    assert (root / "inbox" / "a.jsonl").exists()
