"""The configuration: found upwards, strict, and each mistake answered with the way out."""

from __future__ import annotations

import datetime

import pytest

from ftdoctor.cells import Cell
from ftdoctor.config import Accepted, Config, find, here
from ftdoctor.errors import ConfigError, UsageError


def write(folder, text, name="ftdoctor.toml"):
    (folder / name).write_text(text)
    return folder


def test_without_a_file_everything_is_default(tmp_path):
    """No file, no opinion."""
    assert find(tmp_path).profile == ""


def test_the_nearest_file_above_counts(tmp_path):
    """From a folder below the project's."""
    write(tmp_path, '[tool.ftdoctor]\nprofile = "quick"\n', "pyproject.toml")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert find(below).profile == "quick"


def test_a_pyproject_without_our_table_is_passed_over(tmp_path):
    """The project above may have it."""
    write(tmp_path, 'profile = "full"\n')
    below = tmp_path / "a"
    below.mkdir()
    write(below, "[tool.other]\n", "pyproject.toml")

    assert find(below).profile == "full"


def test_everything_that_can_be_said(tmp_path):
    """One of each."""
    text = """
    profile = "quick"
    cells = ["family=llama"]
    probes = ["loading"]
    jobs = 2
    timeout = 30
    json = "a.json"
    html = "a.html"
    expect = { torch = ">=2.6,<3" }
    thresholds = { free_disk_gib = 1 }
    [[accept]]
    probe = "train-after-eval"
    cells = { quantization = ["nf4", "fp4"], device = "cpu" }
    fails = ["gradients"]
    reason = "known"
    until = 2030-01-31
    """
    found = find(write(tmp_path, text))

    assert found == Config(
        path=tmp_path / "ftdoctor.toml",
        profile="quick",
        cells=("family=llama",),
        probes=("loading",),
        jobs=2,
        timeout=30.0,
        json="a.json",
        html="a.html",
        expect={"torch": ">=2.6,<3"},
        thresholds={"free_disk_gib": 1.0, "free_memory_gib": 2.0},
        accept=(
            Accepted(
                "train-after-eval",
                "known",
                {"quantization": ("nf4", "fp4"), "device": ("cpu",)},
                ("gradients",),
                datetime.date(2030, 1, 31),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('profil = "quick"', r"no setting 'profil' \(did you mean 'profile'\?\)"),
        ("jobs = '2'", "jobs = '2' is not of type int"),
        ("jobs = true", "is not of type int"),
        ("[expect]\ntorch = 'new'", "is not a version specifier"),
        ("[thresholds]\nfree_disk = 1", "did you mean 'thresholds.|did you mean 'free_disk_gib'"),
        ("[[accept]]\nprobe = 'x'", "no 'reason'"),
        ("[[accept]]\nprobe = 'x'\nreason = 'y'\nuntil = '2030-01-01'", "is not a date"),
        ("[[accept]]\nprobe = 'x'\nreason = 'y'\ncells = {famly = 'llama'}", "did you mean 'family'"),
        ("[[accept]]\nprobe = 'x'\nreason = 'y'\ncell = {}", "did you mean 'cells'"),
        ("profile = ", "is not valid TOML"),
        ("jobs = -3", "jobs = -3 is not above zero"),
        ("jobs = 0", "jobs = 0 is not above zero"),
        ("timeout = -1", "timeout = -1 is not above zero and finite"),
        ("timeout = nan", "timeout = nan is not above zero and finite"),
        ("probes = [3]", r"probes = \[3\] holds 3, which is not of type str"),
        ("cells = [['family=llama']]", "holds .*, which is not of type str"),
        ("redact = [3]", r"redact = \[3\] holds 3"),
        ("accept = [3]", "accept = 3 is no table"),
        ("[[accept]]\nprobe = 'x'\nreason = 'y'\ncells = 3", "is no table of probe, reason and cells"),
    ],
)
def test_a_mistake_names_the_file_and_the_way_out(tmp_path, text, sentence):
    """In one sentence."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        find(write(tmp_path, text))
    assert "ftdoctor.toml" in str(caught.value)


def test_a_report_may_stand_at_home(tmp_path, monkeypatch):
    """No shell replaces the `~` of a file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find(write(tmp_path, "html = '~/report.html'")).html == str(tmp_path / "home" / "report.html")
    assert find(write(tmp_path, "")).html == ""


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    """Not traced back."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(UsageError, match="does not exist any more; change to one that does"):
        here()


TODAY = datetime.date(2026, 6, 1)


@pytest.mark.parametrize(
    ("entry", "covered"),
    [
        (Accepted("p", "r"), True),
        (Accepted("q", "r"), False),
        (Accepted("p", "r", until=TODAY), True),
        (Accepted("p", "r", until=TODAY - datetime.timedelta(1)), False),
        (Accepted("p", "r", {"family": ("llama",)}), True),
        (Accepted("p", "r", {"family": ("phi3",)}), False),
        (Accepted("p", "r", {"vocabulary": ("512",)}), False),
        (Accepted("p", "r", fails=("a", "b")), True),
        (Accepted("p", "r", fails=("b",)), False),
    ],
)
def test_an_accepted_finding_covers_no_more_than_it_says(entry, covered):
    """Probe, cells, checks and day must all agree; an axis that the cell does not have does not."""
    assert entry.covers("p", Cell.of({"family": "llama"}), ["a"], TODAY) is covered
