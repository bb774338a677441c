"""The report as Markdown is rendered by GitHub's own renderer, and nothing from outside becomes a part of it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftdoctor import machine
from ftdoctor.cells import Cell
from ftdoctor.results import (
    Beside,
    CellResult,
    CheckRecord,
    Culprit,
    Finding,
    Isolation,
    Level,
    Outcome,
    Raised,
    Redaction,
    Run,
    Skipped,
    Trial,
)  # fmt: skip
from ftdoctor.wording import visible
from ftdoctor_reports import markdown
from ftdoctor_reports.difference import markdown as difference_markdown
from ftdoctor_reports.difference.compare import compare
from ftdoctor_reports.markdown.fit import Part, Shorter, fit
from ftdoctor_reports.markdown.text import code, fence, prose, table

ELEMENTS = {"h2", "h3", "p", "blockquote", "strong", "ul", "li", "code", "pre", "table", "thead", "tbody", "tr", "th", "td",
            "details", "summary"}  # fmt: skip
TRIGGERS = re.compile(r"@\w|#\d|\bGH-\d|:[a-z0-9_+-]+:|https?:|www\.|\$")
"""What GitHub makes a mention, a reference, an emoji, a link or a formula of, outside of code."""
NASTY = (
    "<script>alert(1)</script>", "</details>", "<!--", "&lt;b&gt;", "<img src=x onerror=alert(1)>", "`", "```", "~~~", "````sh",
    "|", "\\|", "\\\\|", "\\", "\n", "\n\n", "\r\n", "\t", "# ", "1. ", "- [ ] x", "+ ", "> ", "---", "===", "*a*", "__a__",
    "~~a~~", "[a](http://b.c)", "![a](http://b.c/d.png)", "[^1]", "http://a.b/c", "www.a.bc", "a@b.cd", "@octocat",
    "owner/repo#12", "#1", "GH-1", ":tada:", "$a$", "deadbee1", "\x1b[31m", "\x00", "\u202e", "\ufeff", "\ud800", "a", "_b_", " ", "é",
    "<details open>", "<summary>", "x" * 300, "`" * 81, "`" * 300, "~" * 300,
)  # fmt: skip
"""Pieces of which hostile texts are made."""


class Skeleton(HTMLParser):
    """The elements of a page in order, without code in a line, and the text that stands outside of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.outside = ""
        self.codes: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags += [tag] if tag != "code" else []
        self.codes += [""] if tag == "code" else []
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.tags += [f"/{tag}"] if tag != "code" else []

    def handle_data(self, data):
        if "code" in self.open:
            self.codes[-1] += data
        else:
            self.outside += data


def rendered(text: str) -> Skeleton:
    """Return what GitHub's renderer makes of a text, HTML included as it is."""
    return Skeleton(cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE))


def run(text: str = "word", findings: int = 2, **changes) -> Run:
    """Return a run in which `text` stands in every field that can hold one."""
    cells = [Cell.of({"axis": f"{text}{n}"}) for n in range(findings)]
    check = CheckRecord(
        text, False, text, text, text, text, beside=(Beside("naive", False, text), Beside("library", True, text))
    )
    warned = replace(check, name=f"{text} 2", level=Level.WARN)
    results = (
        *(
            CellResult(text, cell, Outcome.FAILED, checks=(check, warned), raised=Raised(text, text, text), output=text, warnings=(text,))
            for cell in cells
        ),
        CellResult(text, Cell.of({"other": text}), Outcome.SKIPPED, reason=text),
        CellResult(text, Cell(), Outcome.CRASHED, reason=text, seconds=2.0),
    )  # fmt: skip
    found = tuple(
        Finding(text, text, (cell, results[-1].cell), Culprit(text, text, text, 7), {text: text}, text, text, text, (text,), (text,))
        for cell in cells
    )  # fmt: skip
    values = dict(
        schema="ftdoctor/2", ftdoctor=text, outcome="findings", interrupted=True, started=text, seconds=31.0, profile=text,
        model=text, machine={**machine.examine(), "processor": text, "python": text, "gpu_note": text, "gpus": []},
        stack={text: text}, isolation=Isolation(text, text, memory_limit_enforced=False), planned=5, results=results,
        findings=found, skipped=(Skipped(text, Cell(), text),), areas={text: text}, notes=(text,), promises={text: text},
        installed={f"{text}2": text}, environment={text: text}, configuration={text: [text]},
        selftest=(Trial(text, text, Cell.of({"axis": text}), text, text),), redaction=Redaction(done=False),
    )  # fmt: skip
    return Run(**{**values, **changes})


def texts() -> st.SearchStrategy[str]:
    """Return texts made of hostile pieces, or of any characters at all; not empty, for an empty one is left out."""
    anything = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=60)
    made = st.lists(st.one_of(st.sampled_from(NASTY), anything), min_size=1, max_size=12).map("".join)
    return made.filter(lambda text: visible(text).strip() != "")


TAME = rendered(markdown.render(run()))
TAME_TICKET = rendered(markdown.finding(run(), run().findings[0]))


@settings(max_examples=300, deadline=None)
@given(texts())
@example("".join(NASTY))
def test_nothing_from_outside_becomes_an_element(text):
    """Whatever stands in every field, the elements are those of a harmless run, and no word triggers anything."""
    hostile = run(text)
    for made, tame in (
        (markdown.render(hostile), TAME),
        (markdown.finding(hostile, hostile.findings[0]), TAME_TICKET),
    ):
        page = rendered(made)

        assert page.tags == tame.tags
        assert set(page.tags) <= ELEMENTS | {f"/{tag}" for tag in ELEMENTS}
        assert page.attributes <= {"lang"}
        assert not TRIGGERS.search(page.outside)
        assert "\ufffd" not in page.outside + "".join(page.codes)


@settings(max_examples=300, deadline=None)
@given(texts())
def test_code_says_what_it_was_given(text):
    """To the character, with hidden ones shown; in a table too, but for a space behind an odd backslash before a bar."""
    shown = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    page = rendered(f"before {code(text, 10**6)} after")
    cell = rendered(table(("head", "head"), [(code(text, 10**6), "end")]))

    assert page.codes == [shown]
    assert [c.replace("\\ |", "\\|") for c in cell.codes] == [shown.replace("\\ |", "\\|")]


def test_a_bar_ends_no_cell_in_any_renderer():
    """Where they do not agree, behind a backslash, there is a space."""
    written = table(("head",), [(code("a|b"),), (code("a\\|b"),), (code("a\\\\|b"),)])

    assert written.splitlines()[2:] == ["| `a\\|b` |", "| `a\\ \\|b` |", "| `a\\\\\\|b` |"]
    assert rendered(written).codes == ["a|b", "a\\ |b", "a\\\\|b"]


@pytest.mark.parametrize("length", [80, 81, 254, 255, 256, 300])
def test_runs_of_backticks_beyond_what_the_renderer_counts_close_nothing(length):
    """It knows no code in a line with more than 80 of them, and counts those of a fence up to 255."""
    ticks = "`" * length
    page = rendered(f"{code(f'{ticks} <b>a</b>')}\n\n{fence(f'{ticks}{chr(10)}<b>a</b>')}")

    assert page.tags == ["p", "/p", "pre", "/pre"]
    assert "<b>" not in page.outside
    assert "`" * 255 not in fence(f"{ticks}\n") or length < 100


@settings(max_examples=200, deadline=None)
@given(texts())
def test_a_block_says_what_it_was_given(text):
    """Whatever fences stand in it; a very long run of backticks is told by its number."""
    page = rendered(f"before\n\n{fence(text, 'text', 10**6)}\n\nafter")

    assert page.tags == ["p", "/p", "pre", "/pre", "p", "/p"]
    if all(len(visible(line)) <= 500 for line in text.split("\n")) and "`" * 100 not in text:
        assert page.codes == [visible(text).strip("\n") + "\n"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("vocabulary=128k (passes at 512); not on family, quantization or dtype",) * 2,
        ("it isn't x86_64: 3.5% of and/or", "it isn't x86_64: 3.5% of and/or"),
        ("see huggingface/transformers#42374 and @octocat now", "see `huggingface/transformers#42374` and `@octocat` now"),
        ("run `pip install 'a!=1'` twice", "run `pip install 'a!=1'` twice"),
        ("give all (`a b`), or `@me`; not `x`y", "give all (`a b`), or `@me`; not `` `x`y ``"),
        ("half `of it", "half `` `of `` it"),
        ("1. first :tada:", "`1.` first `:tada:`"),
        ("- a  <b>\n\n# c", "`-` a `<b> #` c"),
        ("x._y_.z and x_y and x/_y_/z", "`x._y_.z` and x_y and `x/_y_/z`"),
        ("commit 1a2b3c4d of GH-12", "commit `1a2b3c4d` of `GH-12`"),
        ("", ""),
    ],
)  # fmt: skip
def test_plain_words_stay_plain_and_the_rest_stands_in_code(text, written):
    """So that sentences read as sentences."""
    assert prose(text) == written


def test_what_a_finding_says_stands_before_what_is_folded():
    """Summary, promise, culprit, dependence, cure, evidence and the command."""
    made = markdown.render(run("word", findings=1, stack={"torch": "2.13.0+cpu"}))
    head = made.partition("<details>")[0]

    for part in ("## ftdoctor word: interrupted: 1 finding; ", "torch `2.13.0+cpu`", "**Interrupted:**", "### 1. ✗ `word`",
                 "- **Promise:** word", "- **Culprit:** `word word, word:7`", "- **Depends on:** word", "- **Cure:** word",
                 "- **Also ends:** `word`", "- **Advisories:** `word`", "| ✗ | word | `word` | `word` | `word` |", "```sh\nword\n```"):  # fmt: skip
        assert part in head, part


def test_a_ticket_for_one_finding_stands_alone():
    """With versions, machine and environment, and nothing of the other findings."""
    made = run()
    made = replace(
        made, findings=(replace(made.findings[0], summary="this one"), replace(made.findings[1], summary="other"))
    )
    ticket = markdown.finding(made, made.findings[0])

    assert ticket.startswith("## ftdoctor word: `word`: this one\n")
    assert "Machine and versions" in ticket
    assert "Environment variables (1)" in ticket
    assert "other" not in ticket


def test_a_redacted_report_has_no_banner():
    """And one that was not says so before anything else."""
    assert markdown.NOT_REDACTED in markdown.render(run()).split("\n\n")[1]
    assert "Not redacted" not in markdown.render(run(redaction=Redaction(done=True)))


def test_a_healthy_run_is_short():
    """No finding, nothing that is not green."""
    healthy = run(findings=0, outcome="healthy", interrupted=False, results=(CellResult("word", Cell(), Outcome.PASSED),),
                  redaction=Redaction(done=True))  # fmt: skip
    made = markdown.render(healthy)

    assert "No promise was found broken." in made
    assert "not green" not in made
    assert made.startswith("## ftdoctor word: healthy; 1 of 5 planned cells examined in 31 s\n")


@pytest.mark.parametrize(
    ("text", "findings"), [("word ", 400), ("x" * 1_000_000, 3), ("😀`<\x1b" * 400, 60), ("\n" * 5000 + "a", 80)]
)
def test_it_is_never_longer_than_github_takes(text, findings):
    """In bytes, which are more than characters; it stays whole Markdown and says what was left out."""
    made = markdown.render(run(text, findings))
    page = rendered(made)

    assert len(made.encode()) <= markdown.LIMIT < 65_536
    assert page.open == []
    assert set(page.tags) <= ELEMENTS | {f"/{tag}" for tag in ELEMENTS}
    assert ("All of it is in the JSON and the HTML report." in page.outside) == (findings > 3)


def test_the_least_important_gives_way_first():
    """What is folded before what is not, the last finding before the first, and each is counted."""
    made = markdown.render(run("word", 400))

    assert "### 1. ✗ `word`" in made
    assert "### 10. ✗ `word`" in made
    assert "### 400. " not in made
    assert "Machine and versions" in made
    left_out = made.partition("Left out for length:")[2]
    assert re.search(r"what is folded of \d{2,3} findings, all but the summary of \d{3} findings", left_out)
    for what in ("the libraries' warnings", "the timings", "the configuration", "the environment"):
        assert what in left_out


def test_parts_give_way_one_by_one():
    """No more of them than is needed."""
    parts = [
        Part("a" * 100),
        Part("b" * 2000, (Shorter(2, "b", "b"), Shorter(3, "all of b"))),
        Part("c" * 2000, (Shorter(1, "c"),)),
    ]

    assert fit(parts, 4200) == f"{'a' * 100}\n\n{'b' * 2000}\n\n{'c' * 2000}\n"
    assert (
        fit(parts, 4000)
        == f"{'a' * 100}\n\n{'b' * 2000}\n\n> **Left out for length:** c. All of it is in the JSON and the HTML report.\n"
    )
    assert fit(parts, 3000).startswith(f"{'a' * 100}\n\nb\n\n> **Left out for length:** b, c.")
    assert "all of b" in fit(parts, 1100)


@pytest.mark.parametrize("kind", ["healthy", "findings", "interrupted", "hostile", "many"])
def test_a_run_of_each_kind_fits_into_a_ticket(make_run, kind):
    """And is whole."""
    made = markdown.render(make_run(kind))
    page = rendered(made)

    assert len(made.encode()) <= markdown.LIMIT
    assert page.open == []
    assert set(page.tags) <= ELEMENTS | {f"/{tag}" for tag in ELEMENTS}
    for found in make_run(kind).findings:
        assert len(markdown.finding(make_run(kind), found).encode()) <= markdown.LIMIT


@settings(max_examples=100, deadline=None)
@given(texts(), texts())
@example("".join(NASTY), "@octocat")
def test_nothing_from_outside_becomes_an_element_of_a_difference(text, other):
    """Whatever stands in either run."""
    page = rendered(difference_markdown.render(compare(run(text), run(other), (text, other))))

    assert set(page.tags) <= ELEMENTS | {f"/{tag}" for tag in ELEMENTS}
    assert page.attributes <= {"lang"}
    assert not TRIGGERS.search(page.outside)


@pytest.mark.parametrize(
    "pair", [("many", "healthy"), ("hostile", "many"), ("healthy", "hostile"), ("findings", "healthy")], ids="-".join
)
def test_a_difference_fits_into_a_ticket(make_run, pair):
    """However many findings and cells differ."""
    made = difference_markdown.render(compare(*map(make_run, pair)))
    page = rendered(made)

    assert len(made.encode()) <= markdown.LIMIT
    assert page.open == []


def test_a_difference_says_first_what_b_is(make_run):
    """Then both runs, then the findings, each with its cure."""
    made = difference_markdown.render(compare(make_run("healthy"), make_run("findings"), ("a.json", "b.json")))

    assert re.match(r"## ✗ B is worse: \d new findings; \d+ cells became red \(and \d accepted\)\n", made)
    for part in ("- **A** `a.json`: healthy; ", "### New: `tokenizer-reload`", "- **Cure:** install another release of transformers",
                 "### New, accepted: `label-alignment`", "### Became red: ", "| `tokenizer-reload` | `family=llama vocabulary=128k` | passed → failed |"):  # fmt: skip
        assert part in made, part
