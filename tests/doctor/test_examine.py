"""One examination: it is kept as it goes, and what it says beside its results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import ftdoctor_matrix as matrix
from ftdoctor import examine, registry
from ftdoctor.request import Request


@pytest.fixture
def prepared(monkeypatch):
    """One cell that needs nothing of the stack, which is not imported ahead."""
    known = matrix.libraries()
    monkeypatch.setattr(matrix, "libraries", lambda: dataclasses.replace(known, preload_safe=(), preload_full=()))
    request = Request(probes=registry.choose(["resources"]), profile="quick", jobs=1, timeout=float("inf"))
    return examine.prepare(request)


def test_a_run_says_what_was_asked_and_what_steers_the_stack(prepared, monkeypatch):
    """The promise of each probe, the versions of what the stack needs, and variables of known names only."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SOMETHING_ELSE", "2")
    run = examine.examine(prepared)

    assert run.environment["HF_HUB_OFFLINE"] == "1"
    assert "SOMETHING_ELSE" not in run.environment
    assert run.configuration == {"jobs": 1, "timeout": float("inf")}
    assert set(run.promises) == {"resources"}
    assert not set(run.installed) & set(run.stack)
    assert not run.redaction.done


@pytest.mark.stack
def test_what_the_stack_needs_is_named_with_its_version(prepared):
    """And nothing else of the environment."""
    run = examine.examine(prepared)

    assert {"numpy", "filelock", "pyyaml"} <= set(run.installed)
    assert not {"pytest", "ruff", "ftdoctor"} & set(run.installed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_disk_under_the_journal_is_a_note(prepared):
    """The run goes on, and its report says that it cannot be resumed."""
    request = dataclasses.replace(prepared.request, probes=registry.choose(["resources", "stack-versions"]))
    kept = examine.keep_journal(examine.prepare(request))

    def fill(result):
        kept.journal.path.unlink()
        kept.journal.path.symlink_to("/dev/full")

    run = examine.examine(kept, fill)

    assert len(run.results) == 2
    assert run.notes == ("this run cannot be resumed: its journal could not be written on (No space left on device)",)


def test_an_interrupt_counts_where_the_run_goes_on(prepared):
    """What was there until then is the run."""

    def interrupted(result):
        raise KeyboardInterrupt

    run = examine.examine(prepared, interrupted)

    assert run.interrupted
    assert len(run.results) == 1


def test_a_killed_run_is_recovered_from_its_journal(prepared):
    """With the time at which it began; nothing runs again."""
    kept = examine.keep_journal(prepared)
    run = examine.examine(kept)
    again = examine.recover(
        examine.keep_journal(examine.prepare(dataclasses.replace(kept.request, resume=kept.journal)))
    )

    assert again.results == run.results
    assert not again.interrupted
    assert again.started <= run.started
