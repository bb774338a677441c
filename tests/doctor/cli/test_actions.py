"""In a step of GitHub Actions a run leaves a summary and annotations, and its log runs no command of others."""

from __future__ import annotations

import os
import re

import pytest


@pytest.fixture
def step(tmp_path):
    """The environment of a step."""
    return {**os.environ, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}


def test_a_step_has_a_summary_and_annotations(unruly, ftdoctor, step, tmp_path):
    """Appended to what is there already; the marks of the log enclose everything that came from outside."""
    (tmp_path / "summary.md").write_text("before\n")
    done = ftdoctor("check", "--probe", "red", light=True, env=step)
    stops = re.findall(r"^::stop-commands::([0-9a-f]{32})$", done.stdout, re.MULTILINE)
    guarded, after = done.stdout.split(f"::{stops[-1]}::\n")
    bare = re.sub(r"(?ms)^::stop-commands::(\w+)$.*?^::\1::$", "", done.stdout)

    assert done.returncode == 1, done.stderr
    assert "✗ red" in guarded
    assert "::error" not in guarded
    assert after.startswith("::error title=red::")
    assert all(line.startswith(("::", "report:")) for line in bare.split("\n") if line)
    assert (tmp_path / "summary.md").read_text().startswith("before\n## ftdoctor")


def test_a_report_on_standard_output_stays_alone(unruly, ftdoctor, step):
    """Commands go where the rest goes."""
    done = ftdoctor("check", "--probe", "red", "--json", light=True, env=step)

    assert done.stdout.startswith("{")
    assert "::error title=red::" in done.stderr


def test_elsewhere_there_is_none_of_it(unruly, ftdoctor, step, tmp_path):
    """Also where a summary's file happens to be named."""
    done = ftdoctor("check", "--probe", "red", light=True, env={**step, "GITHUB_ACTIONS": ""})

    assert "::" not in done.stdout
    assert not (tmp_path / "summary.md").exists()


def test_a_summary_that_cannot_be_written_is_said(unruly, ftdoctor, step):
    """And changes nothing else."""
    done = ftdoctor("check", "--probe", "healthy", light=True, env={**step, "GITHUB_STEP_SUMMARY": "/nowhere/at/all"})

    assert done.returncode == 0
    assert "the job's summary could not be written (No such file or directory)." in done.stderr
