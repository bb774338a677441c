"""Whatever a probe does to its process is that probe's verdict and nothing else."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from pathlib import Path

import pytest

from ftdoctor.cells import Cell
from ftdoctor.results import Outcome
from ftdoctor.runner.pool import FORK, FRESH, Pool
from ftdoctor.runner.task import Limits, Task
from ftdoctor.settings import Settings

LIMITS = Limits(seconds=10.0, memory=400 * 1024**2, output=8 * 1024**2, evidence=4 * 1024**2)


def examine(names, folder: Path, limits: Limits = LIMITS, *, fresh: bool = False, jobs: int = 2, preload=()):
    """Run probes of the unruly pack and return their results by name, and the pool."""
    folder.mkdir(exist_ok=True)
    pool = Pool(jobs, folder, preload)
    tasks = [
        Task(i, f"unruly.{name}", name.replace("_", "-"), Cell(), Settings(str(folder)), limits, fresh=fresh)
        for i, name in enumerate(names)
    ]
    return {task.module.rpartition(".")[2]: result for task, result in pool.run(tasks)}, pool


CRASHES = {
    "segfaults": "was killed by SIGSEGV",
    "allocates": "held more than 0.391 GiB of memory",
    "exits": "exited with status 0 before its verdict",
    "forks": "left processes running: sleep",
    "forks_detached": "left processes running:",
    "forks_and_dies": "was killed by SIGABRT",
    "prints": "printed more than 8 MiB",
    "returns_garbage": "returned garbage instead of a verdict",
    "forges": "returned garbage instead of a verdict",
    "floods": "sent more than 4 MiB of evidence",
    "interrupts": "was killed by SIGTERM",
}


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_each_misbehaviour_is_one_crash_with_its_reason(unruly, tmp_path, fresh):
    """A probe beside a misbehaving one is not touched; the misbehaving one is a crash that says how."""
    results, _ = examine(["healthy", *CRASHES, "red"], tmp_path / "cache", fresh=fresh)

    assert results["healthy"].outcome is Outcome.PASSED
    assert results["red"].outcome is Outcome.FAILED
    reasons = {name: results[name].reason for name in CRASHES}
    assert {name for name in CRASHES if results[name].outcome is not Outcome.CRASHED} == set()
    assert {n: r for n, r in reasons.items() if not r.startswith(CRASHES[n])} == {}


@pytest.mark.parametrize("name", ["hangs", "spins"])
def test_a_probe_that_does_not_end_is_ended(unruly, tmp_path, name):
    """The reason names the limit, and the output says where it was."""
    results, _ = examine([name], tmp_path / "cache", Limits(seconds=1.5))

    assert results[name].outcome is Outcome.CRASHED
    assert results[name].reason == "did not end within 1.5 s"
    assert f"{name}.py" in results[name].output


def test_a_crash_keeps_the_evidence_it_had(unruly, tmp_path):
    """Checks are sent as they are recorded."""
    results, _ = examine(["segfaults"], tmp_path / "cache")

    assert [c.name for c in results["segfaults"].checks] == ["before"]
    assert "Segmentation fault" in results["segfaults"].output
    assert "segfaults.py" in results["segfaults"].output


def test_no_process_outlives_the_cell_that_started_it(unruly, tmp_path):
    """Not even one that went into a session of its own, or whose parent died."""
    examine(["forks", "forks_detached", "forks_and_dies"], tmp_path / "cache")
    time.sleep(0.2)

    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 1000" not in running.splitlines()


def test_a_probe_that_checks_nothing_has_not_kept_its_promise(unruly, tmp_path):
    """Nothing measured is never green."""
    results, _ = examine(["measures_nothing"], tmp_path / "cache")

    assert results["measures_nothing"].outcome is Outcome.FAILED
    assert results["measures_nothing"].reason == "the probe measured nothing"


def test_system_exit_is_a_failure_like_any_other_exception(unruly, tmp_path):
    """A library that leaves the process politely is still seen."""
    results, _ = examine(["leaves"], tmp_path / "cache")

    assert results["leaves"].outcome is Outcome.FAILED
    assert results["leaves"].raised.type == "SystemExit"


def test_cells_do_not_see_each_other(unruly, tmp_path):
    """Seeds, environment and modules are those of a new process each time."""
    results = [examine(["pollutes"], tmp_path / "cache")[0]["pollutes"].outcome for _ in range(2)]
    together, _ = examine(["pollutes", "pollutes"], tmp_path / "cache", jobs=1)

    assert [*results, together["pollutes"].outcome] == [Outcome.PASSED] * 3


def test_the_fork_server_has_the_stack_and_a_fresh_interpreter_has_not(unruly, tmp_path):
    """A probe of imports must not find them done."""
    forked, pool = examine(["imports"], tmp_path / "cache", preload=["this"])
    fresh, _ = examine(["imports"], tmp_path / "cache", preload=["this"], fresh=True)

    assert (forked["imports"].outcome, fresh["imports"].outcome) == (Outcome.FAILED, Outcome.PASSED)
    assert pool.isolation.mode == FORK


def test_a_module_that_cannot_be_imported_does_not_stop_the_server(unruly, tmp_path):
    """The cells that need it will say so themselves."""
    results, pool = examine(["healthy"], tmp_path / "cache", preload=["there_is_no_such_module"])

    assert results["healthy"].outcome is Outcome.PASSED
    assert pool.isolation.mode == FORK


def test_a_stack_that_kills_its_importer_is_survived(unruly, tmp_path, monkeypatch):
    """The run goes on with fresh interpreters and says why."""
    (tmp_path / "deadly.py").write_text("import ctypes\nctypes.string_at(0)\n")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{tmp_path}")
    results, pool = examine(["healthy", "red"], tmp_path / "cache", preload=["deadly"])

    assert (results["healthy"].outcome, results["red"].outcome) == (Outcome.PASSED, Outcome.FAILED)
    assert pool.isolation.mode == FRESH
    assert pool.isolation.reason == "the fork server died: Fatal Python error: Segmentation fault"


@pytest.mark.stack
def test_an_import_that_computes_with_threads_is_found_out_by_the_canary(unruly, tmp_path, monkeypatch):
    """After a multi-threaded operation a forked child deadlocks; the canary hangs first, and fork is given up."""
    source = "import torch\ntorch.set_num_threads(2)\n(torch.ones(600, 600, requires_grad=True) @ torch.ones(600, 600)).sum().backward()\n"
    (tmp_path / "computes.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{tmp_path}")
    monkeypatch.setenv("FTDOCTOR_CANARY_SECONDS", "3")
    results, pool = examine(["healthy"], tmp_path / "cache", preload=["computes"])

    assert results["healthy"].outcome is Outcome.PASSED
    assert pool.isolation.mode == FRESH
    assert "canary" in pool.isolation.reason


def test_hosts_end_with_the_pool(unruly, tmp_path):
    """Stopping early ends hosts and cells."""
    folder = tmp_path / "cache"
    folder.mkdir()
    pool = Pool(2, folder, ())
    tasks = [
        Task(i, f"unruly.{n}", n, Cell(), Settings(str(folder)), LIMITS) for i, n in enumerate(["healthy", "hangs"])
    ]
    running = pool.run(tasks)
    next(running)
    hosts = [host.process for host in pool._hosts.values()]
    running.close()

    assert [host.poll() is None for host in hosts] == [False] * len(hosts)


def test_an_accelerator_is_used_by_one_cell_at_a_time(unruly, tmp_path):
    """Each cell sees only its own; cells that want none run beside them."""
    pool = Pool(4, tmp_path, (), gpus=2)
    settings = Settings(str(tmp_path))
    tasks = [
        Task(i, "unruly.accelerated", "accelerated", Cell.of({"n": str(i)}), settings, LIMITS, accelerated=i < 6)
        for i in range(8)
    ]
    seen = {}
    for task, result in pool.run(tasks):
        assert result.outcome is Outcome.PASSED, result
        seen[task.id] = {c.name: c.measured for c in result.checks}
    times = {i: (float(s["from"]), float(s["to"])) for i, s in seen.items()}

    assert [seen[i]["gpu"] for i in (6, 7)] == ["", ""]
    assert {seen[i]["gpu"] for i in range(6)} == {"0", "1"}
    for gpu in ("0", "1"):
        spans = sorted(times[i] for i in range(6) if seen[i]["gpu"] == gpu)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert min(times[6][0], times[7][0]) < max(start for i, (start, _) in times.items() if i < 6)


def test_the_frames_are_those_of_the_exception_at_the_bottom_of_the_chain(unruly, tmp_path):
    """Whoever wraps an error in another one is not its culprit."""
    results, _ = examine(["chains"], tmp_path / "cache")
    raised = results["chains"].raised

    assert (raised.type, raised.message) == ("RuntimeError", "wrapped")
    assert raised.origin == "BadParameter: 'x' is not a valid integer range."
    assert raised.frames[-1].file.startswith("click/")
    assert "BadParameter" in raised.traceback
