"""The inbox takes what is whole, oldest first, by one watcher, until it is asked to stop."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftdoctor.errors import ConfigError, DataError, UsageError
from ftdoctor.training import inbox as module
from ftdoctor.training.inbox import Inbox, InboxSettings, only_one


@pytest.fixture
def root(tmp_path):
    """A folder with a recipe."""
    folder = tmp_path / "root"
    (folder / "inbox").mkdir(parents=True)
    (folder / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 0\npoll = 60\n')
    return folder


@pytest.fixture
def put(root):
    """Move a whole file into the inbox, as old as it is said to be."""

    def move(name, *texts, age=60):
        path = root / name
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts or (name,)))
        os.utime(path, (time.time() - age,) * 2)
        return path.rename(root / "inbox" / name)

    return move


class Trainer:
    """Stands in for a training run: keeps the names it was given, and does with each what it is told to."""

    def __init__(self):
        self.names, self.recipes = [], []
        self.then = lambda name, stop: True

    def __call__(self, recipe, dataset, folder, *, earlier, stop):
        self.names.append(dataset.name)
        self.recipes.append(recipe)
        finished = self.then(dataset.name, stop)
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(finished=finished, adapter=folder / "adapter", steps=1, summary=folder / "summary.json")


@pytest.fixture
def trainer():
    return Trainer()


@pytest.fixture
def told():
    return []


@pytest.fixture
def inbox(root, trainer, told):
    return Inbox(root, trainer, told.append)


@pytest.fixture
def running(inbox):
    """Watch in another thread, and stop at the end."""

    @contextlib.contextmanager
    def watch():
        thread = threading.Thread(target=inbox.run)
        thread.start()
        try:
            yield
        finally:
            inbox.stop()
            thread.join(30)
            assert not thread.is_alive()

    return watch


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def until(condition):
    """Wait for what another thread does."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_once_trains_what_is_there_oldest_first(inbox, put, trainer, told):
    """And tells of each."""
    put("a.jsonl", age=10)
    put("b.jsonl", age=30)
    failed = inbox.run(once=True)

    assert (failed, trainer.names) == (0, ["b.jsonl", "a.jsonl"])
    assert told[0].startswith("b.jsonl: taken, by recipe ")
    assert told[1:2] + told[3:] == ["b.jsonl: trained: adapters/b", "a.jsonl: trained: adapters/a"]


def test_a_failure_is_counted_and_the_next_is_trained(inbox, put, trainer, root):
    """One bad file holds nobody up."""
    put("a.jsonl", age=30)
    put("b.jsonl", age=10)

    def then(name, stop):
        if name == "a.jsonl":
            raise DataError("Bad.")
        return True

    trainer.then = then

    assert inbox.run(once=True) == 1
    assert names(root / "adapters") == ["b"]
    assert names(root / "failed") == ["a.jsonl", "a.reason.txt"]


def test_a_file_that_arrives_is_trained(running, put, trainer, root):
    """The system's report wakes it, long before the folder would be looked at anyway (a minute)."""
    with running():
        until((root / "work").exists)
        for name in ("a.jsonl", "b.jsonl"):
            put(name)
            until(lambda name=name: name in trainer.names)

    assert trainer.names == ["a.jsonl", "b.jsonl"]


def test_a_file_that_grows_is_trained_when_it_is_whole(running, root, trainer):
    """Not a row is missing."""
    with running(), (root / "inbox" / "a.jsonl").open("w") as out:
        for i in range(30):
            out.write(json.dumps({"text": str(i)}) + "\n")
            out.flush()
            time.sleep(0.01)
        before = list(trainer.names)
        out.close()
        until((root / "archive" / "a.jsonl").exists)

    assert before == []
    assert len((root / "archive" / "a.jsonl").read_text().splitlines()) == 30


def test_where_nothing_is_reported_the_folder_is_looked_at(running, put, root, trainer, told, monkeypatch):
    """As on a network folder, or when the system has no watches left."""
    observers = pytest.importorskip("watchdog.observers")
    (root / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 0\npoll = 0.05\n')

    class Refusing(observers.Observer):
        def start(self):
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(observers, "Observer", Refusing)
    inbox = Inbox(root, trainer, told.append)
    thread = threading.Thread(target=inbox.run)
    thread.start()
    until((root / "work").exists)
    put("a.jsonl")
    until(lambda: trainer.names)
    inbox.stop()
    thread.join(30)

    assert trainer.names == ["a.jsonl"]
    assert told[0].endswith("(inotify watch limit reached); it is looked at now and then")


def test_looking_at_the_folder_does_not_wake_it_up_again(root, monkeypatch):
    """Reading is an event too: it would never rest."""
    looks = []
    real = module.Arrivals.look
    monkeypatch.setattr(module.Arrivals, "look", lambda self: looks.append(1) or real(self))
    (root / "inbox" / "a.jsonl").write_text("{}")
    os.utime(root / "inbox" / "a.jsonl", (time.time() + 3600,) * 2)
    (root / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 600\npoll = 600\n')
    other = Inbox(root, Trainer())
    thread = threading.Thread(target=other.run)
    thread.start()
    until(lambda: looks)
    time.sleep(0.5)
    other.stop()
    thread.join(30)

    assert len(looks) <= 3


def test_it_stops_after_the_step_and_goes_on_at_the_next_start(inbox, root, put, trainer, told):
    """The file stays in the work folder; what waits behind it stays in the inbox."""
    put("a.jsonl", age=30)
    put("b.jsonl", age=10)

    def then(name, stop):
        if len(trainer.names) > 1:
            return True
        assert not stop()
        inbox.stop()
        return not stop()

    trainer.then = then
    inbox.run(once=True)
    work, waiting = names(root / "work"), names(root / "inbox")
    Inbox(root, trainer, told.append).run(once=True)

    assert (work, waiting) == (["a"], ["b.jsonl"])
    assert trainer.names == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert "a.jsonl: stopped after step 1; the next start goes on from there" in told
    assert "a.jsonl: going on where it was left" in told


def test_asked_to_stop_before_it_has_begun_it_touches_nothing(inbox, root, put, trainer):
    """Neither a job that was begun nor a file that waits."""
    put("a.jsonl", age=30)
    put("b.jsonl", age=10)
    trainer.then = lambda name, stop: False
    inbox.stop()
    inbox.run(once=True)
    other = Inbox(root, trainer)
    trainer.then = lambda name, stop: other.stop()
    other.run(once=True)
    third = Inbox(root, trainer)
    third.stop()
    third.run(once=True)

    assert trainer.names == ["a.jsonl"]


def test_a_stop_is_heard_while_it_waits(inbox, told):
    """Long before it would look again (a minute)."""
    thread = threading.Thread(target=inbox.run)
    thread.start()
    until(lambda: told)
    inbox.stop()
    thread.join(30)

    assert not thread.is_alive()


def test_a_changed_recipe_counts_from_the_next_file_on(inbox, root, put, trainer):
    """It is read again for each."""
    put("a.jsonl", age=30)
    put("b.jsonl", age=10)

    def then(name, stop):
        (root / "config.toml").write_text('model = "m"\nseed = 7\n[inbox]\nsettle = 0\n')
        return True

    trainer.then = then
    inbox.run(once=True)

    assert [recipe.seed for recipe in trainer.recipes] == [0, 7]


def test_a_recipe_that_is_broken_meanwhile_leaves_the_file_in_the_inbox(inbox, root, put, trainer):
    """And ends the watcher."""
    put("a.jsonl")
    (root / "config.toml").write_text("model = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        inbox.run(once=True)

    assert (names(root / "inbox"), trainer.names) == (["a.jsonl"], [])


def test_once_leaves_what_is_still_being_written(inbox, root, trainer, told):
    """And says so."""
    with (root / "inbox" / "a.jsonl").open("w") as out:
        out.write("{}")
        out.flush()
        inbox.run(once=True)

    assert (trainer.names, told) == ([], ["a.jsonl: still being written; left in the inbox"])


def test_once_waits_for_what_may_be_whole(root, put, trainer):
    """A file that was copied a moment ago."""
    (root / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 0.3\n')
    put("a.jsonl", age=0)
    Inbox(root, trainer).run(once=True)

    assert trainer.names == ["a.jsonl"]


def test_a_file_is_looked_at_again_when_it_may_be_whole(root, put, trainer):
    """Long before the folder would be looked at anyway (a minute), and without being told."""
    (root / "config.toml").write_text('model = "m"\n[inbox]\nsettle = 0.3\npoll = 60\n')
    put("a.jsonl", age=0)
    inbox = Inbox(root, trainer)
    thread = threading.Thread(target=inbox.run)
    thread.start()
    until(lambda: trainer.names)
    inbox.stop()
    thread.join(30)

    assert trainer.names == ["a.jsonl"]


def test_what_is_left_alone_is_told_once(inbox, root, put, told):
    """So that nobody waits for it in vain."""
    put("notes.txt")
    put("a.jsonl")
    inbox.run(once=True)
    inbox.run(once=True)

    assert told.count("notes.txt: left alone: it is no file whose name ends with .jsonl") == 1


HOLDER = """
import sys, time
from pathlib import Path
from ftdoctor.training.inbox import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_watcher_is_refused_by_the_pid_of_the_first_until_that_is_killed(root, inbox):
    """With SIGKILL; nothing needs to be removed by hand."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root / ".lock")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as caught:
            inbox.run(once=True)
        holder.kill()
        holder.wait()

    assert str(caught.value) == (
        f"{root} is watched already, by process {holder.pid}; an inbox has one watcher at a time."
    )
    assert inbox.run(once=True) == 0


def test_a_forked_worker_that_outlives_a_killed_watcher_holds_nothing(root):
    """As those of a data loader may, for a moment."""
    program = (
        "import os, sys, time, signal\nfrom pathlib import Path\nfrom ftdoctor.training.inbox import only_one\n"
        "with only_one(Path(sys.argv[1])):\n"
        "    worker = os.fork()\n"
        "    if worker:\n"
        "        print(worker, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root / ".lock")], stdout=subprocess.PIPE, text=True
    ) as watcher:
        worker = int(watcher.stdout.readline())
        watcher.wait()
        try:
            with only_one(root / ".lock"):
                held = (root / ".lock").read_text()
        finally:
            os.kill(worker, 9)

    assert held == f"{os.getpid()}\n"


def test_without_watchdog_there_is_still_once(inbox, put, trainer, monkeypatch):
    """One sentence otherwise."""
    monkeypatch.setitem(sys.modules, "watchdog.events", None)
    put("a.jsonl")
    with pytest.raises(UsageError) as caught:
        inbox.run()

    assert str(caught.value) == (
        "Watching a folder needs watchdog: pip install 'ftdoctor[train]', or go through it with --once."
    )
    assert inbox.run(once=True) == 0
    assert trainer.names == ["a.jsonl"]


def test_a_folder_that_is_not_there_is_named(tmp_path, trainer):
    """With the way out."""
    with pytest.raises(UsageError, match=r"There is no folder .*none; make it, and in it a config\.toml"):
        Inbox(tmp_path / "none", trainer)
    with pytest.raises(ConfigError, match=r'config\.toml is missing; write one with at least model = "PATH"\.'):
        Inbox(tmp_path, trainer)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[inbox]\nsetle = 1", "there is no setting 'inbox.setle' (did you mean 'settle'?); there are settle, poll."),
        ("[inbox]\nsettle = -1", "inbox.settle = -1 is not a number of seconds."),
        ("[inbox]\nsettle = true", "inbox.settle = True is not a number of seconds."),
        ("[inbox]\npoll = nan", "inbox.poll = nan is not a number of seconds."),
        ("[inbox]\npoll = inf", "inbox.poll = inf is not a number of seconds."),
        ("[inbox]\npoll = 0", "inbox.poll = 0 would never rest; write for example 10."),
        ("inbox = 3", "inbox = 3 is not a table; write [inbox]."),
        ("[inbox]\n[other]", "there is no setting 'other' (did you mean 'model'?)"),
    ],
)
def test_a_mistake_in_the_table_is_named(root, trainer, text, sentence):
    """Before anything is made."""
    (root / "config.toml").write_text(f'model = "m"\n{text}\n' if text[0] == "[" else f'{text}\nmodel = "m"\n')
    with pytest.raises(ConfigError) as caught:
        Inbox(root, trainer)

    assert sentence.split(" (did")[0] in str(caught.value)
    assert str(caught.value).startswith(str(root / "config.toml"))
    assert "work" not in names(root)


def test_the_table_has_defaults():
    """Two seconds of rest, and a look every ten."""
    assert InboxSettings.of({}, "x") == InboxSettings(settle=2.0, poll=10.0)


def test_folders_on_several_file_systems_are_refused(root, trainer, monkeypatch):
    """Nothing could be moved in one piece."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is no second file system here")
    (root / "archive").symlink_to(other)

    with pytest.raises(ConfigError, match="lies on another file system"):
        Inbox(root, trainer).run(once=True)
