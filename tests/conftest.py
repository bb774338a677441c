"""Shared by all tests: a state folder of their own, and packs of probes that misbehave."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Tiny models gain nothing from threads, and lose much where several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HAS_STACK = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "trl"))
PACKS = Path(__file__).parent / "doctor" / "runner" / "packs"


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    """Each test has its own state folder, and none sees the configuration of this project."""
    folder = tmp_path / "state"
    monkeypatch.setenv("FTDOCTOR_STATE", str(folder))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return folder


@pytest.fixture(scope="session")
def bench_cache(tmp_path_factory):
    """Tokenizers are trained once a session."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def make_bench(tmp_path, bench_cache):
    """Return a function that makes the bench of a cell: `make_bench(family="qwen3", adapter="none")`."""
    from ftdoctor.bench import Bench
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings

    made = []

    def make(**cell):
        folder = tmp_path / f"bench-{len(made)}"
        folder.mkdir()
        made.append(Bench(Cell.of(cell), folder, Settings(cache=str(bench_cache))))
        return made[-1]

    return make


@pytest.fixture
def with_template(bench_cache):
    """Return a tokenizer in ChatML style with this chat template."""
    from ftdoctor.bench import tokenizers

    def make(template):
        made = tokenizers.build("chatml", "512", bench_cache)
        made.chat_template = template
        return made

    return make


@pytest.fixture(scope="session")
def uv():
    """Run uv and return what it prints; a keyword is a variable of its environment."""
    own = Path(sys.executable).with_name("uv")
    program = str(own) if own.exists() else shutil.which("uv") or "uv"
    # uv does not read pip's own `find-links`.
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    lines = [line.partition("=")[2].strip().strip("'\"") for line in asked.stdout.splitlines() if "find-links" in line]
    links = ",".join(sorted({link for line in lines for link in line.split()}))
    found = {"UV_FIND_LINKS": links} if links else {}

    def call(*arguments, **environment):
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **found, **environment},
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    return call


@pytest.fixture(scope="session")
def build(uv):
    """Make a virtual environment of these requirements and return its Python."""
    this = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def make(folder, *requirements, version=this):
        uv("venv", "--quiet", "--no-python-downloads", "--python", version, str(folder))
        python = str(folder / "bin" / "python")
        uv("pip", "install", "--quiet", "--python", python, *requirements)
        return python

    return make


@pytest.fixture(scope="session")
def pins(uv):
    """Return the requirements that give another environment the versions that these distributions have here.

    Without the local part (`+cpu`), which no index has.
    """

    def frozen(*names):
        lines = uv("pip", "freeze", "--python", sys.executable).splitlines()
        return [line.partition("+")[0] for line in lines if line.partition("==")[0] in names]

    return frozen


@pytest.fixture(scope="session")
def runs():
    """The module that makes runs for the tests of reports."""
    spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).parent / "reports" / "runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_run(runs):
    """Return the run of a kind: `healthy`, `findings`, `interrupted`, `hostile`, `many`; made once."""
    return functools.cache(runs.make)


@pytest.fixture
def unruly(monkeypatch):
    """Make the pack of unruly probes importable, here and in every process that is started."""
    monkeypatch.setenv("PYTHONPATH", str(PACKS))
    monkeypatch.syspath_prepend(str(PACKS))
    return "unruly"


def pytest_collection_modifyitems(items):
    """Skip what needs the stack where it is not installed, saying so."""
    if not HAS_STACK:
        for item in items:
            if "stack" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="the fine-tuning stack is not installed"))


@pytest.fixture
def wait_for():
    """Wait until a condition holds."""

    def wait(condition, seconds=30.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait


LIGHT = """
import sys
import ftdoctor_matrix as matrix
known = matrix.libraries()
matrix.libraries = lambda: matrix.Libraries(known.order, (), ())
from ftdoctor.cli import main
sys.argv[0] = "ftdoctor"
main()
"""
"""The command line without importing the stack ahead: for what has nothing to do with the stack."""


@pytest.fixture
def ftdoctor(tmp_path):
    """Run the command line in a process of its own, in an empty folder; `light=True` imports no stack ahead."""

    def call(*arguments, light=False, cwd=None, start=False, **more):
        program = ["-c", LIGHT] if light else ["-m", "ftdoctor"]
        folder = cwd or tmp_path
        command = [sys.executable, *program, *arguments]
        if start:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
            return subprocess.Popen(command, cwd=folder, text=True, **pipes)
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, **more)

    return call
