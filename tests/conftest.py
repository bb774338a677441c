"""Shared by all tests: a state folder of their own, and packs of probes that misbehave."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HAS_STACK = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "trl"))
PACKS = Path(__file__).parent / "doctor" / "runner" / "packs"


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    """Each test has its own state folder, and none sees the configuration of this project."""
    folder = tmp_path / "state"
    monkeypatch.setenv("FTDOCTOR_STATE", str(folder))
    return folder


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
