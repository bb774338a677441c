"""Two processes that train together, on a CPU over gloo, do what one would do with all the rows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack

PROGRAM = Path(__file__).with_name("distributed.py")
LIMIT = 300


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Run `distributed.py` in two processes, and return what each has written: scenario to results."""
    import torch

    folder = tmp_path_factory.mktemp("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        with (folder / f"output-{rank}").open("w") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), str(folder)],
                    env={**os.environ, **place, **meeting},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [process.wait(LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], [(folder / f"output-{rank}").read_text()[-2000:] for rank in (0, 1)]
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


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


def test_the_loss_is_the_mean_over_the_tokens_of_both_processes(found, make_bench):
    """However the rows are cut into micro-batches; loss and gradient equal a float64 reference."""
    import torch

    from ftdoctor.bench.reference import distance, relative_forward_error

    bench = make_bench(adapter="none")
    tokenizer = bench.tokenizer()
    model = bench.model().double()
    total, items = 0.0, 0
    for question, answer in bench.rows(16):
        row = bench.encode(tokenizer, question, answer)
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                total = total - torch.log_softmax(logits[position], -1)[label]
                items += 1
    (total / items).backward()
    mean = float(total.detach()) / items
    expected = {name: p.grad for name, p in model.named_parameters()}
    error = relative_forward_error(model.config, torch.float32)

    for results in found:
        for case, (loss, gradient) in results["loss"].items():
            assert loss == pytest.approx(mean, rel=error), case
            assert distance(gradient, expected) <= 2 * error, case


def test_the_health_of_both_processes_is_logged(found):
    """Tokens are those of all rows of a step."""
    log, scored = found[0]["health"]
    per_step = [sum(scored[i : i + 8]) for i in range(0, len(scored), 8)]

    assert [entry["scored_tokens_per_step"] for entry in log if "loss" in entry] == per_step
