"""Two runs compared, as they are shown: on the terminal, as JSON and as a page that a real browser opens."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

from ftdoctor.results import Outcome, dumps
from ftdoctor_reports.difference import markdown as difference_markdown
from ftdoctor_reports.difference import page as difference_page
from ftdoctor_reports.difference import terminal as difference_terminal
from ftdoctor_reports.difference.compare import compare

PAIRS = [
    ("healthy", "findings"),
    ("interrupted", "findings"),
    ("healthy", "hostile"),
    ("hostile", "many"),
    ("findings", "healthy"),
]
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations.map(
  v => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(" | ")}`)));
"""
VIEWS = {"light": {}, "dark": {"dark": True}, "narrow": {"width": 390}}


@pytest.fixture
def new(make_run):
    """How many findings a run has that another one has not."""
    return sum(not found.accepted for found in make_run("findings").findings)


@pytest.fixture
def worse(make_run):
    """A run that was healthy, and is not."""
    return compare(make_run("healthy"), make_run("findings"), ("before.json", "after.json"))


def shown(difference, width=100, ascii_only=False, **more):
    """What a terminal of that width shows."""
    out = io.StringIO()
    look = difference_terminal.Look(width, ascii_only)
    Console(file=out, width=width, color_system=None, highlight=False).print(
        difference_terminal.render(difference, look, **more)
    )
    return out.getvalue()


def test_what_is_to_be_done_is_never_cut(make_run):
    """Half a cure is none."""
    run = make_run("findings")
    cure = " ".join(f"step {number}, then" for number in range(60)) + " done"
    sick = replace(run, findings=(replace(run.findings[0], cure=cure),))
    text = " ".join(shown(compare(make_run("healthy"), sick)).split())

    assert cure in text


def test_the_terminal_names_the_verdict_and_what_speaks_for_it(worse, new):
    """Both runs, the findings with culprit and cure, the cells, and nothing that is the same."""
    text = shown(worse)

    for part in ("A before.json: healthy; ", f"B after.json: {new} findings, 1 accepted; ", f"B is worse: {new} new findings; ",
                 "New: tokenizer-reload", "  culprit    transformers 4.57.2, transformers/tokenization_utils_base.py:2419",
                 "  cure       install another release of transformers", "Became red: ", "outcome: passed → failed", "Now warns: 1 cell"):  # fmt: skip
        assert part in text, part
    assert "What differs" not in text


def test_a_narrow_terminal_breaks_lines_and_loses_nothing(worse):
    """At 30 columns, and in ASCII where nothing else can be shown."""
    text = shown(worse, width=30, ascii_only=True)

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 30
    assert text.isascii()
    for part in ("passed -> failed", "tokenizer-reload", "4.57.2"):
        assert part in text


def test_quiet_shows_the_verdict_and_what_makes_b_worse(worse, make_run, new):
    """One line where nothing does."""
    text = shown(worse, quiet=True)

    assert text.startswith("B is worse: ")
    assert text.count("New: ") == new
    assert "New, accepted: " not in text
    assert shown(compare(make_run("findings"), make_run("healthy")), quiet=True).count("\n") == 1


def test_what_came_from_outside_steers_no_terminal(make_run):
    """Hidden characters are shown, long texts are cut."""
    text = shown(compare(make_run("healthy"), make_run("hostile")))

    assert not set(text) & set("\x1b\x07\x00\u202e\u2066")
    assert len(text) < 60_000


def test_many_rows_are_counted(make_run):
    """Twenty of each section stand on the terminal."""
    text = shown(compare(make_run("many"), make_run("healthy")))

    assert " more" in text
    assert len(text.splitlines()) < 400


def test_what_is_examined_no_longer_is_told_by_its_reason(make_run):
    """In one line for all cells, in every form; what is examined anew by the reason for which it was not."""
    without = make_run("healthy")
    missing = [r for r in without.results if r.outcome is Outcome.SKIPPED]
    results = tuple(replace(r, outcome=Outcome.PASSED, reason="") if r in missing else r for r in without.results)
    with_gpu = replace(without, results=results, skipped=())
    lost, gained = compare(with_gpu, without), compare(without, with_gpu)
    title, reason = f"Newly skipped: {len(missing)} cells", missing[0].reason

    assert lost.told == f"B is worse: {len(missing)} cells could not be examined any more"
    for text in (shown(lost, width=200), difference_page.render(lost), difference_markdown.render(lost)):
        assert title in text
        assert text.count(reason) == 1
    assert f"Newly examined: {len(missing)} cells" in shown(gained)
    assert reason in shown(gained)


def test_findings_in_both_are_named_and_none_is_said(make_run):
    """In a line."""
    same = compare(make_run("findings"), make_run("findings"))
    line = f"{len(make_run('findings').findings)} findings in both: tokenizer-reload, "

    assert line in shown(same)
    assert line in difference_page.render(same)
    assert "Neither of them has a finding." in difference_page.render(compare(make_run("healthy"), make_run("healthy")))


def test_many_rows_of_markdown_are_counted(make_run):
    """Forty of each section stand in a ticket."""
    made = make_run("many")
    slow = replace(made, results=tuple(replace(r, seconds=99.0) for r in made.results))

    assert re.search(r"\n\d+ more are in the JSON and the HTML form\.", difference_markdown.render(compare(made, slow)))


def test_the_document_holds_the_whole_difference(worse):
    """As JSON, with its schema."""
    document = json.loads(dumps(worse))

    assert (document["schema"], document["verdict"]) == ("ftdoctor.difference/1", "worse")
    assert len(document["cells"]) == len(worse.cells)
    assert document["findings"][0]["b"]["cells"][0]["vocabulary"] == "128k"


def test_the_page_runs_nothing_and_says_everything(make_run, worse, new):
    """Verdict, both runs, findings, each section with a link to it; what is not redacted has a banner."""
    page = difference_page.render(worse)

    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "Not redacted" not in page
    assert "Not redacted" in difference_page.render(compare(make_run("interrupted"), make_run("healthy")))
    for part in (f"✗ B is worse: {new} new findings", "before.json", "after.json", "transformers/tokenization_utils_base.py:2419",
                 'href="#became-red"', 'id="became-red"'):  # fmt: skip
        assert part in page, part


@pytest.fixture
def page_of_pair(make_run):
    """Return the page of two runs of these kinds."""
    return lambda pair: difference_page.render(compare(*map(make_run, pair)))


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_browser_shows_the_page(opened, page_of_pair, pair, width):
    """Nothing runs, nothing is wider than the screen, links lead to their sections."""
    page = opened(page_of_pair(pair), width=width)

    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.execute_script(
        "return [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
    )
    assert page.title.startswith("ftdoctor: ")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_axe_finds_nothing_that_shuts_people_out(opened, page_of_pair, checkers, pair, view):
    """Light, dark and narrow."""
    page = opened(page_of_pair(pair), **VIEWS[view])
    page.execute_script((checkers / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))

    assert page.execute_async_script(AXE) == []


def test_a_validator_finds_no_error(page_of_pair, checkers, tmp_path):
    """The Nu Html Checker, but for what it cannot know: that a style has the hash that the policy names."""
    if not shutil.which("java"):
        pytest.skip("needs java")
    for pair in PAIRS:
        (tmp_path / f"{'-'.join(pair)}.html").write_text(page_of_pair(pair), encoding="utf-8")
    jar = checkers / "vnu-jar" / "build" / "dist" / "vnu.jar"
    command = ["java", "-Xss8m", "-jar", str(jar), "--format", "json", *map(str, sorted(tmp_path.glob("*.html")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [message["message"] for message in json.loads(done.stderr)["messages"]]

    assert [text for text in told if "Content Security Policy" not in text] == []
