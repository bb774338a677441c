"""The direction of imports: words at the bottom, the runner knows no probe, reports read results only."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STACK = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "datasets", "tokenizers", "numpy")
COMPONENTS = ("doctor/ftdoctor/training", "doctor/ftdoctor/prediction")
BOUND = {
    *(f"{COMPONENTS[0]}/{name}.py" for name in ("loss", "guard", "health", "collator", "packing", "batch_plan", "sft")),
    f"{COMPONENTS[1]}/callback.py",
}
WORDS = ("cells", "results", "probe", "checks", "patch", "errors", "settings", "wording", "lazy")


def imported(path: Path, *, everywhere: bool) -> set[str]:
    """Return the modules that a file imports: when it is imported itself, or anywhere in it."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("doctor", "probes", "matrix", "reports"), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_the_stack_when_it_is_imported(path):
    """Heavy libraries are imported inside functions; only components whose classes derive from theirs name them above."""
    if str(path.relative_to(ROOT)) in BOUND:
        return
    assert not {m for m in imported(path, everywhere=False) if m.split(".")[0] in STACK}


def test_components_know_no_run():
    """They import the stack and the words, never bench, runner or command line."""
    allowed = {f"ftdoctor.{word}" for word in (*WORDS, "machine", "training", "prediction")} | {"ftdoctor"}
    for path in files(*COMPONENTS):
        own = {m for m in imported(path, everywhere=True) if m.split(".")[0].startswith("ftdoctor")}
        assert {".".join(m.split(".")[:2]) for m in own} <= allowed, path


@pytest.mark.parametrize("name", WORDS)
def test_the_words_know_no_other_floor(name):
    """Neither bench nor runner nor diagnosis, but for the annotations of a probe."""
    known = {f"ftdoctor.{word}" for word in WORDS}
    own = {
        m for m in imported(ROOT / "doctor" / "ftdoctor" / f"{name}.py", everywhere=False) if m.startswith("ftdoctor")
    }

    assert own <= known


def test_the_runner_knows_no_probe():
    """By its name; a task brings the module."""
    for path in files("doctor/ftdoctor/runner"):
        assert not {m for m in imported(path, everywhere=True) if m.startswith("ftdoctor_probes")}, path


def test_reports_read_results_only():
    """And the facts of the machine that stand in them; rows of predictions are results."""
    allowed = {f"ftdoctor.{name}" for name in ("results", "cells", "errors", "machine", "wording", "prediction.rows")}
    allowed.add("ftdoctor")
    for path in files("reports"):
        own = {m for m in imported(path, everywhere=True) if m.split(".")[0] == "ftdoctor"}
        assert own <= allowed, path


def test_probes_import_bench_and_words_only():
    """A probe knows nothing of the run that it is part of."""
    for path in files("probes"):
        own = {m for m in imported(path, everywhere=True) if m.split(".")[0].startswith("ftdoctor")}
        floors = {m.split(".")[1] if "." in m else m for m in own}
        assert floors <= {*WORDS, "bench", "training", "prediction", "machine", "ftdoctor_matrix", "ftdoctor"}, path


@pytest.mark.parametrize("folder", COMPONENTS)
def test_no_component_is_called_like_its_module(folder):
    """`from ftdoctor.training import x` would give the module once that was imported."""
    package = importlib.import_module(folder.removeprefix("doctor/").replace("/", "."))
    modules = {path.stem for path in (ROOT / folder).glob("*.py")}

    assert set(package.__all__) & modules == set()


def test_training_knows_no_predictions():
    """Predictions are made beside a training; they use its parts, not the other way round."""
    for path in files(COMPONENTS[0]):
        assert not {m for m in imported(path, everywhere=True) if m.startswith("ftdoctor.prediction")}, path
