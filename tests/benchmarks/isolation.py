"""What keeping cells apart costs: a forked cell against a fresh interpreter that imports the same.

    python tests/benchmarks/isolation.py

Prints ratios of one run; seconds differ from machine to machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ftdoctor_matrix as matrix
from ftdoctor.cells import Cell
from ftdoctor.results import Outcome
from ftdoctor.runner.pool import FORK, Pool
from ftdoctor.runner.task import Limits, Task
from ftdoctor.settings import Settings

PACKS = Path(__file__).parent.parent / "doctor" / "runner" / "packs"
CELLS = 40
TARGET = 50


def main() -> None:
    """Time forked cells after the first, and interpreters that import what the server imports."""
    modules = matrix.libraries().preload_safe + matrix.libraries().preload_full
    program = "import importlib\n" + "".join(f"importlib.import_module({m!r})\n" for m in modules)
    fresh = [
        timed(
            lambda: subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program], check=True, stderr=subprocess.DEVNULL
            )
        )
        for _ in range(3)
    ]
    forked = forked_seconds(modules)
    ratio = statistics.median(fresh) / forked
    print(f"fresh interpreter that imports the stack  {statistics.median(fresh):.2f} s")
    print(f"forked cell                               {forked:.4f} s")
    print(f"ratio                                     1/{ratio:.0f} (target: at most 1/{TARGET})")
    sys.exit(0 if ratio >= TARGET else 1)


def forked_seconds(modules: tuple[str, ...]) -> float:
    """Return the seconds that one more trivial cell takes, one at a time, the server being ready."""
    import os

    os.environ["PYTHONPATH"] = str(PACKS)
    with tempfile.TemporaryDirectory() as name:
        pool = Pool(1, Path(name), modules)
        tasks = [Task(i, "unruly.healthy", "healthy", Cell(), Settings(name), Limits()) for i in range(CELLS + 1)]
        arrivals = []
        for _, result in pool.run(tasks):
            assert result.outcome is Outcome.PASSED, result
            arrivals.append(time.perf_counter())
        assert pool.isolation.mode == FORK, pool.isolation
    return (arrivals[-1] - arrivals[0]) / CELLS


def timed(call: object) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
