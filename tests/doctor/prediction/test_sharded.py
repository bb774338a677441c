"""Sharded models predict in the middle of their training, in two processes on a CPU over gloo, and train on as before."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack
PROJECT = Path(__file__).parents[3]
LIMIT = 300
"""Seconds: processes that wait for each other for ever are killed."""


def train(folder, python, *kinds):
    """Run both processes, and return what each has found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    started = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        command = [python, str(Path(__file__).with_name("sharded_training.py")), str(folder), *kinds]
        with (folder / f"output-{rank}").open("w") as output:
            environment = {**os.environ, **meeting, **place}
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "".join((folder / f"output-{rank}").read_text()[-3000:] for rank in (0, 1))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sharded"), sys.executable, "ddp", "fsdp2", "fsdp")


def check(found, kind, told):
    """Hold what both processes have found for a kind of sharding against what is promised."""
    for rank, results in enumerate(found):
        for adapter in ("none", "lora"):
            case = results[f"{kind} {adapter}"]
            assert case["sharding"] == told
            assert case["before the first step"] == [True] * 3
            assert case["same"] == [True] * 3
            assert case["changed"] == []
            assert case["left"]
            assert case["after a failure"] == [True, [], ["error"] * 3]
            assert len(case["losses"]) == 4
            assert case["with predictions"] == case["losses"]
            assert case["written"] == (6 if rank == 0 else 0)


@pytest.mark.parametrize(
    ("kind", "told"), [("ddp", ["none", 1]), ("fsdp2", ["fsdp2", 2]), ("fsdp", ["fsdp", 2])], ids=str
)
def test_a_model_in_two_processes_predicts_and_trains_on(found, kind, told):
    """With all weights and with an adapter: tokens of a whole copy, parts and gradients as before, also after a batch
    that broke off in the middle of a forward; losses and gradient norms to the bit; one process writes."""
    check(found, kind, told)


def test_weights_that_are_spread_by_hand_are_known_and_one_no_is_a_no_for_all(found):
    for rank, results in enumerate(found):
        kind, processes, answers, alone = results["tensor"]
        assert (kind, processes) == ("tensor", 2)
        assert answers == [True, False, False, False]
        assert alone == (rank == 0)  # a model that is whole asks nobody


def test_a_process_of_its_own_has_a_whole_model():
    import torch

    from ftdoctor.prediction import sharded

    model = torch.nn.Linear(2, 2)
    assert sharded.sharding_of(model) == sharded.Sharding("none", 1)
    with sharded.gathered(model) as callee:
        assert callee is model


@pytest.mark.other_stack
def test_zero_3_predicts_and_trains_on(tmp_path, uv, build, pins):
    """As the others, with DeepSpeed, in an environment of its own."""
    same = pins("torch", "transformers", "peft", "accelerate", "datasets", "huggingface-hub", "numpy")
    python = build(tmp_path / "venv", *same, str(PROJECT), "setuptools", "wheel", "ninja")
    install = ("pip", "install", "--quiet", "--python", python, "--no-build-isolation", "deepspeed")
    uv(*install, DS_BUILD_OPS="0")

    check(train(tmp_path, python, "deepspeed"), "deepspeed", ["deepspeed", 2])
