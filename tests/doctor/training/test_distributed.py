"""Two processes that train together, on a CPU over gloo, do what one would do with all the rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Run both processes, and return what each has written."""
    import torch

    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, str(Path(__file__).with_name("launch.py")), "components", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return [torch.load(folder / f"components-{rank}.pt") for rank in (0, 1)]


def test_a_bad_micro_batch_is_left_out_in_both_processes(found):
    """Wherever it stands and whoever has it: the weights are those of a run that never saw it, to the bit."""
    for process, results in enumerate(found):
        for name, expected in EXPECTED.items():
            result = results["guard"][name]
            assert result["different"] == [], name
            assert all(result["saved"])
            mine = [(window, at) for window, at, who, kind in result["records"] if kind != "elsewhere"]
            assert mine == expected[process], name
        assert results["guard"]["a whole window"]["skipped"] == 1
        assert results["guard"]["sft"]["finite"]


EXPECTED = {
    "in one process": ([(1, 1)], []),
    "at the end of a window": ([], [(1, 3)]),
    "in both": ([(2, 3)], [(2, 0)]),
    "a whole window": ([(1, 0), (1, 2)], [(1, 1), (1, 3)]),
}
"""Case to the window and micro-batch of what each process finds in its own rows."""


def test_the_health_of_both_processes_is_logged(found):
    """Tokens are those of all rows of a step."""
    log, scored = found[0]["health"]
    per_step = [sum(scored[i : i + 8]) for i in range(0, len(scored), 8)]

    assert [entry["scored_tokens_per_step"] for entry in log if "loss" in entry] == per_step
