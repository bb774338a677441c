"""The reference stack as a user examines it."""

from __future__ import annotations

import json

import pytest

from ftdoctor import machine

pytestmark = pytest.mark.stack


def test_a_first_look_finds_nothing_wrong(ftdoctor, tmp_path):
    """`check --profile quick` is green, in an empty folder, and says at once what it does not certify."""
    done = ftdoctor("check", "--profile", "quick", "--json", "report.json", "--html", "report.html")
    report = json.loads((tmp_path / "report.json").read_text())

    assert done.returncode == 0, done.stdout
    assert (report["outcome"], report["findings"]) == ("healthy", [])
    assert report["isolation"]["mode"] == "fork server"
    assert len(report["results"]) == report["planned"]
    if not machine.gpus()[0]:
        assert "no GPU: nothing here certifies a GPU" in done.stdout.splitlines()[0]
        assert any("no CUDA device" in s["reason"] for s in report["skipped"])


def test_the_network_is_not_asked_for(ftdoctor, tmp_path, monkeypatch):
    """Proxies that refuse everything change nothing."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = ftdoctor("check", "--profile", "quick", "--probe", "loading", "--quiet")

    assert done.returncode == 0, done.stdout


def test_a_launchers_environment_does_not_make_a_cell_part_of_something_larger(ftdoctor, monkeypatch):
    """Inside a job of many processes each cell is still alone."""
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "10.0.0.1",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }.items():
        monkeypatch.setenv(name, value)
    done = ftdoctor("check", "--profile", "quick", "--probe", "trainer-loss", "--quiet")

    assert done.returncode == 0, done.stdout


def test_nothing_is_left_behind(ftdoctor, tmp_path, monkeypatch):
    """A run writes to its state folder and to temporary folders that it removes."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    done = ftdoctor("check", "--profile", "quick", "--probe", "training-run", cwd=here)

    assert done.returncode == 0, done.stdout
    assert list(scratch.iterdir()) == []
    assert list(here.iterdir()) == []
