"""`inbox` is killed with SIGKILL at twenty random points; what it leaves in the end is what an undisturbed one leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ftdoctor.bench import Bench
from ftdoctor.cells import Cell
from ftdoctor.settings import Settings

pytestmark = pytest.mark.stack

KILLS = 20
CONFIG = """
model = "../model"
max_length = 128
gradient_accumulation = 1
save_steps = 2
lora_rank = 2
lora_dropout = 0.1
seed = 3
[inbox]
settle = 0
"""

DRIVER = '''
"""Import the stack once, touch no tensor, and fork one inbox after the other; most of them are killed."""
import hashlib, json, os, random, select, shutil, signal, sys, time
from pathlib import Path

from ftdoctor.runner.preload import preload
from ftdoctor.training.inbox import Inbox

HOME, KILLS = Path(sys.argv[1]), int(sys.argv[2])
WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copytree", "shutil.rmtree")
preload(["torch", "transformers", "accelerate", "datasets", "peft", "trl", "transformers.models.llama.modeling_llama",
         "ftdoctor.cli.training", "ftdoctor.training.finetuning", "ftdoctor.training.sft"])


def live(root, kill_at=0):
    """Be an inbox that goes through what is there and ends; killed by itself before the n-th thing it does to a file."""
    import torch

    torch.set_num_threads(1)
    done = 0

    def count(event, arguments):
        nonlocal done
        if event in WRITES or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            done += 1
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    from ftdoctor.cli.training import train

    def shown(recipe, dataset, folder, *, earlier, stop):
        return train(recipe, dataset, folder, earlier, stop)

    Inbox(root, shown, lambda line: print(line, file=sys.stderr, flush=True)).run(once=True)
    return done


def fork(root, kill_at=0, seconds=None):
    """Return whether it was killed, and how many things it did otherwise."""
    end, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        status = 3
        try:
            os.write(told, str(live(root, kill_at)).encode())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(told)
    if not select.select([end], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    done = os.read(end, 100)
    os.close(end)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"an inbox ended with status {status}"
    return os.WIFSIGNALED(status), int(done or 0)


def state(root):
    """Return all that a user has of it in the end; of an adapter its weights, which must be the same bit for bit."""
    told = {"replay": (root / "replay.json").read_text()}
    for folder in ("inbox", "work", "archive", "failed"):
        told[folder] = {path.name: path.is_dir() or path.read_text() for path in sorted((root / folder).iterdir())}
    for path in sorted((root / "adapters").iterdir()):
        weights = hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()
        record = json.loads((path / "trained.json").read_text())
        told[path.name] = [weights, record, sorted(file.name for file in path.iterdir())]
    return told


def new_tree(name):
    return Path(shutil.copytree(HOME / "root", HOME / name))


calm = new_tree("calm")
begun = time.monotonic()
_, things = fork(calm)
whole = time.monotonic() - begun
wanted = state(calm)
chosen = random.Random(0)
kills, trees, points = 0, [], []
while kills < KILLS:  # an inbox that was through before its time is compared, and the next one begins anew
    root = new_tree(f"killed-{len(trees)}")
    killed = True
    while killed and kills < KILLS:
        by_clock = kills % 2 == 0
        point = {"seconds": chosen.uniform(0, whole / 2)} if by_clock else {"kill_at": chosen.randint(1, things // 3)}
        killed, _ = fork(root, **point)
        kills += killed
        points.append((killed, point))
    if killed:
        fork(root)
    trees.append(state(root))
print(json.dumps({"wanted": wanted, "trees": trees, "kills": kills, "things": things, "whole": whole, "points": points}))
'''


@pytest.fixture
def home(tmp_path):
    """A model, and an inbox of three files, one of them broken, with an archive to replay from."""
    (tmp_path / "cache").mkdir()
    bench = Bench(Cell.of({}), tmp_path, Settings(cache=str(tmp_path / "cache")))
    bench.checkpoint().rename(tmp_path / "model")
    root = tmp_path / "root"
    for name in ("inbox", "archive"):
        (root / name).mkdir(parents=True)
    (root / "config.toml").write_text(CONFIG)
    write(root / "archive" / "old.jsonl", "old", 7)
    write(root / "inbox" / "a.jsonl", "a", 8)
    write(root / "inbox" / "b.jsonl", "b", 3, end='{"messages": [\n')
    write(root / "inbox" / "c.jsonl", "c", 8)
    return tmp_path


def write(path, name, number, end=""):
    """Write rows of messages."""
    rows = [
        {"messages": [{"role": "user", "content": f"{name} {i}?"}, {"role": "assistant", "content": f"It is {i}."}]}
        for i in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def differences(tree, wanted):
    """Return the names of what is not the same, with both."""
    return [
        (name, tree.get(name), wanted.get(name))
        for name in sorted({*tree, *wanted})
        if tree.get(name) != wanted.get(name)
    ]


def test_killed_at_twenty_random_points_it_ends_as_if_it_had_never_been(home):
    """By the clock and before something that it does to a file; weights bit for bit, archive, failed, cursor."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(home), str(KILLS)],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    wanted = told["wanted"]

    assert told["kills"] == KILLS
    assert {name: len(files) for name, files in wanted.items() if name in ("inbox", "work", "archive", "failed")} == {
        "inbox": 0, "work": 0, "archive": 3, "failed": 2,
    }  # fmt: skip
    assert wanted["failed"]["b.reason.txt"].startswith("b.jsonl line 4")
    assert wanted["a"][1]["replayed"] == wanted["c"][1]["replayed"] == 2
    assert wanted["a"][0] != wanted["c"][0]
    assert [differences(tree, wanted) for tree in told["trees"]] == [[]] * len(told["trees"])
