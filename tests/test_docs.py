"""The documents say what is so: every accepted finding is explained, every command and option that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import ftdoctor_matrix as matrix
from ftdoctor import registry
from ftdoctor.cli import COMMANDS
from ftdoctor.config import find

ROOT = Path(__file__).parents[1]


def test_known_faults_are_exactly_the_accepted_ones():
    """One row a finding, each with its probe, and no acceptance that the list does not explain."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|", (ROOT / "docs" / "known.md").read_text(), re.MULTILINE)
    accepted = find(ROOT).accept

    assert [probe for probe, _ in rows] == [entry.probe for entry in accepted]
    for (_, where), entry in zip(rows, accepted, strict=True):
        assert entry.fails, "an accepted finding names its checks"
        named = {axis: values for axis, values in entry.cells.items() if axis in where}
        assert named, f"{where} names none of {dict(entry.cells)}"


def test_the_probes_and_axes_that_are_accepted_exist():
    """A renamed probe would be accepted in vain."""
    for entry in find(ROOT).accept:
        probe = registry.probes()[entry.probe]
        assert set(entry.cells) <= set(probe.axes), entry
        guarded = {check for fault in probe.faults for check in fault.catches}
        assert set(entry.fails) <= guarded, entry


def test_every_command_that_the_documents_name_exists():
    """And every profile."""
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        text = path.read_text()
        named = set(re.findall(r"`?\bftdoctor ([a-z]+)(?=[ `\n])", text)) - {"alone", "is", "does", "itself"}

        assert named <= set(COMMANDS), path
        assert set(re.findall(r"--profile ([a-z]+)", text)) <= set(matrix.profiles()), path


def test_nothing_speaks_of_one_machine():
    """No path of a home or work folder in what is shipped."""
    for folder in ("doctor", "probes", "matrix", "reports", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".md", ".jinja", ".css", ".svg"):
                assert not re.search(r"/(home|root|work|Users)/", path.read_text(encoding="utf-8")), path


def test_every_component_has_a_page_and_rows_in_the_certified_table():
    """Each probe of the components, with each promise that it measures beside other ways."""
    page = (ROOT / "docs" / "certified.md").read_text(encoding="utf-8")

    for part in ("training", "predictions"):
        overview = (ROOT / "docs" / f"{part}.md").read_text(encoding="utf-8")
        for path in (ROOT / "docs" / part).glob("*.md"):
            assert f"{part}/{path.name}" in overview
    for probe in registry.probes().values():
        if probe.area == "components":
            assert f"[`{probe.name}`]" in page, probe.name
    for row in re.findall(r"^\| \[`[a-z-]+`\].*$", page, re.MULTILINE):
        _, _, ours = (cell.strip() for cell in row.strip("|").split("|")[2:])
        assert ours.split(" of ")[0] == ours.split(" of ")[1], row


def test_every_component_has_cells_in_which_the_naive_script_fails_and_ours_does_not():
    """Else it would not be worth its name."""
    page = (ROOT / "docs" / "certified.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`([a-z-]+)`\].*?\|.*?\| (\d+) of (\d+) \|", page, re.MULTILINE)
    failing = {probe for probe, holds, tried in rows if int(holds) < int(tried)}

    assert failing == {probe.name for probe in registry.probes().values() if probe.area == "components"}
