"""The machine's facts are found without torch, and agree with what the system says."""

from __future__ import annotations

import os
import platform

from ftdoctor import machine

FACTS = machine.examine()


def test_the_facts_are_those_of_this_machine():
    """Cores, memory, Python."""
    assert 1 <= FACTS["cores"] <= (os.cpu_count() or 1)
    assert 0 < FACTS["memory"]["available"] <= FACTS["memory"]["total"]
    assert FACTS["python"] == platform.python_version()
    assert FACTS["disk_free"] > 0


def test_without_a_gpu_there_is_a_reason():
    """Never a bare empty list."""
    assert bool(FACTS["gpus"]) != bool(FACTS["gpu_note"])


def test_the_headline_says_whether_a_gpu_is_examined():
    """The first thing a reader must know."""
    gpu = {"name": "NVIDIA H200", "memory": 2**37, "capability": "9.0", "driver": "580.1", "cuda_driver": "13.0"}

    assert "nothing here certifies a GPU" in machine.headline({**FACTS, "gpus": []})
    assert machine.headline({**FACTS, "gpus": [gpu, gpu]}).endswith("2 x NVIDIA H200")
    assert ("gpu 0", "NVIDIA H200, 128 GiB, capability 9.0, driver 580.1 (CUDA up to 13.0)") in machine.describe(
        {**FACTS, "gpus": [gpu]}
    )


def test_only_installed_distributions_are_in_the_stack():
    """In the order that was asked for."""
    assert list(machine.stack(("rich", "no-such-distribution", "click"))) == ["rich", "click"]
