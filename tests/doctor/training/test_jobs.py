"""A job can be killed before every single thing that it does to a file; the end is always the same."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftdoctor.errors import ConfigError, DataError, LoadError, TrainingError
from ftdoctor.training.jobs import Folders, advance
from ftdoctor.training.recipe import Recipe


@dataclass(frozen=True)
class Done:
    """What the stand-in for a training run ends with."""

    finished: bool
    adapter: Path
    steps: int
    summary: Path


def write_rows(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def rows(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


@pytest.fixture
def folders(tmp_path):
    """An empty inbox."""
    folders = Folders(tmp_path)
    folders.make()
    return folders


@pytest.fixture
def trained():
    """A training run that keeps what it was given; call it with what it is to raise."""
    calls = []

    def make(error=None, finished=True):
        def train(recipe, dataset, folder, *, earlier, stop):
            calls.append((recipe, rows(dataset), [text for path in earlier for text in rows(path)]))
            if error:
                raise error
            adapter = folder / "adapter"
            adapter.mkdir(parents=True, exist_ok=True)
            (adapter / "weights").write_text("w")
            (folder / "summary.json").write_text("{}")
            (folder / "summary.html").write_text("<p>")
            return Done(finished, adapter, 3, folder / "summary.json")

        return train

    make.calls = calls
    return make


@pytest.fixture
def do(folders, trained):
    """Put rows into the inbox under a name and do the job; return what it ended with and what was told."""

    def run(name, *texts, recipe=None, **how):
        told = []
        job = folders.claim(write_rows(folders.inbox / name, *texts), recipe or Recipe(model="m"))
        return advance(job, trained(**how), lambda: False, told.append), told

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_trained_file_is_archived_and_its_adapter_published(do, folders):
    """With the data and the recipe that it comes from; nothing is left in between."""
    ended, told = do("a.jsonl", "one", "two")
    record = json.loads((folders.adapters / "a" / "trained.json").read_text())

    assert ended is True
    assert told == ["a.jsonl: trained: adapters/a"]
    assert names(folders.adapters / "a") == ["summary.html", "summary.json", "trained.json", "weights"]
    assert record["source"] == "a.jsonl"
    assert record["recipe"] == Recipe(model="m").fingerprint()
    assert (record["examples"], record["replayed"], record["steps"]) == (2, 0, 3)
    assert Recipe.of(record["settings"], "x") == Recipe(model="m")
    assert rows(folders.archive / "a.jsonl") == ["one", "two"]
    assert names(folders.work) == names(folders.inbox) == names(folders.failed) == []


def test_names_are_never_overwritten(do, folders):
    """Neither adapters nor archived files nor failed ones."""
    do("a.jsonl", "one")
    do("a.jsonl", "two")
    do("a.jsonl", "three", error=DataError("No."))
    do("a.jsonl", "four")

    assert names(folders.adapters) == ["a", "a-2", "a-4"]
    assert names(folders.archive) == ["a-2.jsonl", "a-4.jsonl", "a.jsonl"]
    assert names(folders.failed) == ["a-3.jsonl", "a-3.reason.txt"]
    assert [rows(folders.archive / f"{n}.jsonl") for n in ("a", "a-2", "a-4")] == [["one"], ["two"], ["four"]]


def test_a_name_as_long_as_a_file_system_allows_is_cut(do, folders):
    """Room is needed for the endings."""
    ended, _ = do("é" * 124 + ".jsonl", "one", error=DataError("No."))

    assert ended is False
    assert [len(name.encode()) for name in names(folders.failed)] == [206, 211]


def test_bad_data_fails_with_its_reason_beside_it(do, folders):
    """The file's own name stands in it, not the place where it lay for the moment; no adapter is there."""
    error = DataError(f"{folders.work / 'a' / 'data' / 'a.jsonl'}, line 7, is not valid JSON; mend it.")
    ended, told = do("a.jsonl", "one", error=error)

    assert ended is False
    assert (folders.failed / "a.reason.txt").read_text() == "a.jsonl, line 7, is not valid JSON; mend it.\n"
    assert rows(folders.failed / "a.jsonl") == ["one"]
    assert told == ["a.jsonl: failed: a.jsonl, line 7, is not valid JSON; mend it. (see failed/a.reason.txt)"]
    assert names(folders.work) == names(folders.adapters) == names(folders.archive) == []


def test_a_crash_fails_with_its_traceback(do, folders):
    """So that the files behind it are trained."""
    ended, told = do("a.jsonl", "one", error=ZeroDivisionError("\ud800"))
    reason = (folders.failed / "a.reason.txt").read_text()

    assert ended is False
    assert reason.startswith("Traceback (most recent call last):")
    assert reason.endswith("ZeroDivisionError: \\ud800\n")
    assert told == ["a.jsonl: failed: ZeroDivisionError: \\ud800 (see failed/a.reason.txt)"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ConfigError("target_modules."), ConfigError),
        (LoadError("No such model.", "model"), LoadError),
        (ImportError("libfoo.so"), TrainingError),
    ],
)
def test_what_is_not_the_datas_fault_gives_the_file_back(do, folders, error, raised):
    """Every other file would fail by the same recipe."""
    with pytest.raises(raised):
        do("a.jsonl", "one", error=error)

    assert rows(folders.inbox / "a.jsonl") == ["one"]
    assert names(folders.work) == names(folders.failed) == []


def test_a_full_disk_leaves_the_job_where_it_is(do, folders, trained):
    """It goes on at the next start."""
    with pytest.raises(OSError, match="No space"):
        do("a.jsonl", "one", error=OSError(errno.ENOSPC, "No space left on device"))
    (job,) = folders.jobs()

    assert advance(job, trained(), lambda: False, lambda _: None) is True
    assert names(folders.adapters) == ["a"]


def test_a_stopped_job_goes_on_by_the_recipe_it_began_with(do, folders, trained):
    """Whatever config.toml says by then."""
    ended, told = do("a.jsonl", "one", recipe=Recipe(model="m", seed=5), finished=False)
    (job,) = folders.jobs()
    advance(job, trained(), lambda: False, told.append)

    assert ended is None
    assert told[0] == "a.jsonl: stopped after step 3; the next start goes on from there"
    assert [recipe.seed for recipe, *_ in trained.calls] == [5, 5]


def test_what_is_replayed_is_chosen_once(do, folders, trained):
    """The archive may be thinned out while a job is stopped."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    do("b.jsonl", *(f"b{i}" for i in range(8)), finished=False)
    (folders.archive / "a.jsonl").unlink()
    (job,) = folders.jobs()
    advance(job, trained(), lambda: False, lambda _: None)

    assert len(trained.calls[1][2]) == 2
    assert trained.calls[1][2] == trained.calls[2][2]


def test_a_job_that_has_failed_is_not_tried_again(folders, trained):
    """Where it was killed before the file was moved."""
    job = folders.claim(write_rows(folders.inbox / "a.jsonl", "one"), Recipe(model="m"))
    (job.folder / "reason.txt").write_text("Bad.\n")
    ended = advance(job, trained(), lambda: False, lambda _: None)

    assert (ended, trained.calls) == (False, [])
    assert (folders.failed / "a.reason.txt").read_text() == "Bad.\n"


def test_a_job_of_another_release_begins_anew(do, folders):
    """Its record says what this one does not understand: the file goes back to the inbox."""
    do("a.jsonl", "one", finished=False)
    record = folders.work / "a" / "job.json"
    record.write_text('{"recipe": {"model": "m", "lora_rang": 1}}')

    assert folders.jobs() == []
    assert rows(folders.inbox / "a.jsonl") == ["one"]
    assert names(folders.work) == []


def test_the_same_data_by_the_same_recipe_is_not_trained_again(do, folders):
    """Under whatever name; by another recipe it is."""
    do("a.jsonl", "one")
    again, _ = do("b.jsonl", "one")
    other, _ = do("c.jsonl", "one", recipe=Recipe(model="m", seed=1))

    assert (again, other) == (False, True)
    assert names(folders.adapters) == ["a", "c"]
    assert (folders.failed / "b.reason.txt").read_text().startswith("b.jsonl holds the same data as adapters/a, ")


def test_earlier_files_are_replayed_without_repeating_any(do, folders, trained):
    """Each draws from all that is archived, and goes on where the last one stopped."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    do("b.jsonl", *(f"b{i}" for i in range(12)))
    do("c.jsonl", *(f"c{i}" for i in range(8)))
    do("d.jsonl", *(f"d{i}" for i in range(60)))
    replayed = [set(earlier) for *_, earlier in trained.calls]

    assert [len(r) for r in replayed] == [0, 3, 2, 15]
    assert all(text[0] == "a" for text in replayed[1])
    assert {text[0] for text in replayed[2] | replayed[3]} == {"a", "b", "c"}
    assert sum(map(len, replayed)) == len(set.union(*replayed))
    assert json.loads((folders.adapters / "d" / "trained.json").read_text())["replayed"] == 15


def test_rows_are_replayed_as_they_are_read(do, folders, trained):
    """Without the byte order mark of their file and blank lines, and each ended, also the last."""
    (folders.archive / "old.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n \n{"text": "two"}')
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    *_, earlier = trained.calls[0]

    assert sorted(earlier) == ["one", "two"]


def test_a_failed_file_does_not_move_the_replay(do, folders, trained):
    """What it drew is drawn by the next."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    do("b.jsonl", *(f"b{i}" for i in range(8)), error=DataError("No."))
    do("c.jsonl", *(f"c{i}" for i in range(8)))

    assert len(trained.calls[1][2]) == 2
    assert trained.calls[1][2] == trained.calls[2][2]


def test_what_is_trained_is_not_replayed_beside_itself(do, trained):
    """The same data by another recipe."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    do("a.jsonl", *(f"a{i}" for i in range(8)), recipe=Recipe(model="m", seed=1))

    assert trained.calls[1][2] == []


def test_without_a_share_nothing_is_replayed(do, trained):
    """The archive is not even read."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    do("b.jsonl", *(f"b{i}" for i in range(8)), recipe=Recipe(model="m", replay_share=0.0))

    assert trained.calls[1][2] == []


def test_a_damaged_cursor_is_named(do, folders):
    """Rather than repeating in silence what was replayed."""
    do("a.jsonl", *(f"a{i}" for i in range(8)))
    folders.cursor.write_text("{")
    with pytest.raises(ConfigError, match=r"replay\.json is damaged; remove it to begin the replay anew\."):
        do("b.jsonl", *(f"b{i}" for i in range(8)))

    assert names(folders.inbox) == ["b.jsonl"]


DRIVER = '''
"""Run an inbox in forked children that are killed at the n-th thing that they do to a file."""
import json, os, random, shutil, signal, sys
from pathlib import Path
from types import SimpleNamespace

from ftdoctor.errors import DataError
from ftdoctor.training.durable import read_json, write_json
from ftdoctor.training.inbox import Inbox

ROOT = Path(sys.argv[1])
os.fsync = lambda handle: None  # a killed process leaves a living kernel: nothing need have reached the disk
WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree", "shutil.copytree")


def train(recipe, dataset, folder, *, earlier, stop):
    """Add up rows, with a checkpoint after each; what it returns depends on every row and on nothing else."""
    root = folder.parents[2]
    name = folder.parent.name
    assert not (root / "adapters" / name).exists(), "trained again although it is published"
    texts = dataset.read_text().splitlines() + [line for path in earlier for line in path.read_text().splitlines()]
    if "bad" in texts[0]:
        raise DataError(f"{dataset}, line 1, is bad; mend it.")
    folder.mkdir(exist_ok=True)
    state = read_json(folder / "checkpoint.json") or {"step": 0, "weights": recipe.seed}
    for step in range(state["step"], len(texts)):
        state = {"step": step + 1, "weights": state["weights"] * 31 % 10**9 + sum(map(ord, texts[step]))}
        write_json(folder / "checkpoint.json", state)
    (folder / "out").mkdir(exist_ok=True)
    write_json(folder / "out" / "weights.json", {"weights": state["weights"]})
    return SimpleNamespace(finished=True, adapter=folder / "out", steps=len(texts), summary=folder / "summary.json")


def prepare(root):
    shutil.rmtree(root, ignore_errors=True)
    for name in ("inbox", "archive", "failed"):
        (root / name).mkdir(parents=True)
    (root / "config.toml").write_text('model = "m"\\nseed = 3\\n[inbox]\\nsettle = 0\\n')
    write = lambda path, *texts: path.write_text("".join(json.dumps({"text": t}) + "\\n" for t in texts))
    write(root / "archive" / "old.jsonl", "x", "y", "z")
    write(root / "failed" / "b.jsonl", "of old")
    for age, (name, texts) in enumerate({"a": ["1", "2", "3", "4"], "b": ["bad"], "c": ["5", "6", "7", "8"]}.items()):
        path = root / "inbox" / f"{name}.jsonl"
        write(path, *texts)
        os.utime(path, (1e9 + age, 1e9 + age))


def run(root, kill_at):
    """Return whether it was killed, and how many things it did."""
    pipe = os.pipe()
    child = os.fork()
    if not child:
        done = 0

        def count(event, arguments):
            nonlocal done
            if event in WATCHED:
                done += 1
                if done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        status = 3
        try:
            Inbox(root, train).run(once=True)
            os.write(pipe[1], str(done).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(pipe[1])
    _, status = os.waitpid(child, 0)
    told = os.read(pipe[0], 100)
    os.close(pipe[0])
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status), int(told or 0)


def tree(root):
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.name != ".lock"
    }


prepare(ROOT)
_, total = run(ROOT, -1)
expected = tree(ROOT)
different = []
random.seed(0)
points = [(n,) for n in range(1, total + 1)] + [tuple(random.randint(1, total) for _ in range(4)) for _ in range(60)]
for kills in points:
    prepare(ROOT)
    killed = [run(ROOT, kill_at)[0] for kill_at in kills]
    assert killed[0], kills
    run(ROOT, -1)
    if tree(ROOT) != expected:
        different.append(kills)
print(json.dumps({"total": total, "expected": expected, "different": different}))
'''


def test_killed_before_anything_that_it_does_to_a_file_it_ends_the_same(tmp_path):
    """Each single point once, then four kills in a row at random ones: adapters, archive, failed, the replay's cursor."""
    root = tmp_path / "root"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(root)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    files = set(told["expected"])

    assert told["different"] == []
    assert told["total"] > 100
    assert {"adapters/a/weights.json", "adapters/c/trained.json", "archive/a.jsonl", "archive/c.jsonl"} <= files
    assert {"failed/b-2.jsonl", "failed/b-2.reason.txt", "failed/b.jsonl", "replay.json"} <= files
    assert not [name for name in files if name.startswith(("work/", "inbox/")) or "partial" in name]
