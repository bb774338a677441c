"""The page of a run as a document: what stands on it and in which order, whatever the run has met."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ftdoctor.cells import Cell
from ftdoctor.results import (
    CellResult,
    CheckRecord,
    Culprit,
    Curve,
    Finding,
    LabelMask,
    Level,
    Outcome,
    Redaction,
    Run,
    decode,
)
from ftdoctor_reports import embedded, html, json, plot, tally
from ftdoctor_reports.html.places import places
from ftdoctor_reports.html.text import BLOCK, LINES, block, cut
from ftdoctor_reports.html.traceback import traceback

EVERY = ("healthy", "findings", "interrupted", "hostile", "many")
PREVIOUS = Path(__file__).parent / "data" / "report-1.json"


class Page(HTMLParser):
    """A page as a browser without scripts reads it: texts in order, attributes, and elements that are not closed."""

    VOID = ("meta", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    def all(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def part(page, place):
    """The element of this id, as it is written."""
    found = re.search(rf'<(\w+)[^>]* id="{re.escape(place)}"', page)
    depth, end = 0, 0
    for tag in re.finditer(rf"<(/?){found[1]}\b", page[found.start() :]):
        depth += -1 if tag[1] else 1
        end = found.start() + tag.end()
        if not depth:
            break
    return page[found.start() : end] + ">"


def told(page, place):
    """The text of an element."""
    return Page(part(page, place)).text


@pytest.mark.parametrize("kind", EVERY)
def test_every_element_is_closed_and_every_link_leads_somewhere(page_of, kind):
    """And no id is given twice."""
    page = Page(page_of(kind))
    ids = page.all("id")
    links = page.all("href")

    assert page.open == []
    assert [name for name, number in Counter(ids).items() if number > 1] == []
    assert not any(re.search(r"\s", name) for name in ids)
    assert {link[0] for link in links} == {"#"}
    assert {link[1:] for link in links} <= set(ids)


@pytest.mark.parametrize("kind", EVERY)
def test_the_policy_allows_nothing_but_the_script_and_the_style_of_the_page(page_of, kind):
    """By their hashes; nothing is loaded, and no attribute holds a script or a style."""
    page = page_of(kind)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)

    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    names = {name for _, attributes in Page(page).elements for name in attributes}
    assert [name for name in names if name.startswith("on") or name in ("src", "style", "action", "formaction")] == []


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_hidden_is_left_and_the_page_can_be_written(page_of, kind):
    """Neither control characters nor halves of pairs nor marks that turn the text around them."""
    page = page_of(kind)

    assert page.encode("utf-8").decode() == page
    assert (
        re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2028\u2066-\u2069\ufeff]", page) == []
    )


def test_hostile_text_is_text(page_of):
    """Its markup is seen, and not understood."""
    page = Page(page_of("hostile"))

    assert "<script>window.hacked=1</script>" in page.text
    assert "\\x1b[31mred\\x1b]0;title\\x07 \\x00 \\x85 \\r" in page.text
    assert "a\\u202egnirts\\u2066b\\u200f \\ufeff \\u2028" in page.text
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "link", "object")] == []
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_long_texts_are_cut_and_their_length_is_told(page_of):
    """Megabytes of one letter make no megabytes of page."""
    page = page_of("hostile")

    assert len(page.encode()) < 1_000_000
    assert re.search(r"x … 1,048,\d+ characters left out … x", page)
    assert "lines left out …" in page
    assert cut("ab" + "-" * 50 + "cd", 4) == "ab … 50 characters left out … cd"
    assert cut("-" * 44, 4) == "-" * 44
    assert len(block("a\n" * 100_000).split("\n")) == LINES + 1
    assert len(block("word " * 1_000_000)) < BLOCK


def test_a_run_of_500_cells_is_a_page_under_a_megabyte(runs):
    """With its checks, and with the run itself inside."""
    made = runs.many(500)
    page = html.render(made)

    assert len(made.results) == 500
    assert sum(len(r.checks) for r in made.results) > 1500
    assert len(page.encode()) < 1_000_000


def test_it_reads_in_order(page_of):
    """Verdict, machine and stack, findings, matrix, what did not run, components, sensitivity, evidence, versions."""
    page = page_of("healthy")
    text = Page(page).text
    order = [
        "healthy; 49 of 55 planned cells examined", "Linux x86_64 · 16 cores · no GPU", "Python 3.11.9 · torch 2.13.0+cpu · transformers 4.57.2",
        "Findings", "No promise was broken in what was examined.", "Matrix", "What did not run, and why", "6 cells: this machine has no CUDA device",
        "the cache of the tokenizers was empty", "Components", "Sensitivity", "Evidence", "What tokenizer-reload promises",
        "Timings", "Versions and machine", "HF_TOKEN", "Redaction", "user name", "As Markdown",
    ]  # fmt: skip
    heads = re.findall(r"<h([1-6])", page)
    at = text.index("✓ healthy")
    for words in order:
        assert words in text[at:], words
        at = text.index(words, at)
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert sections == [
        "findings", "matrix", "not-run", "components", "selftest", "evidence", "timings", "versions", "markdown",
    ]  # fmt: skip
    assert heads[0] == "1"
    assert all(int(after) - int(before) <= 1 for before, after in itertools.pairwise(heads))


def test_a_finding_says_what_whose_when_and_what_to_do(page_of):
    """Open ones first in the order of the run; the accepted one folded behind the warnings."""
    page = page_of("findings")
    first, second = told(page, "finding-1"), told(page, "finding-2")

    for words in (
        "✗ tokenizer-reload", "AttributeError: 'dict' object has no attribute 'model_type'", "What tokenizer-reload promises",
        "transformers 4.57.2, transformers/tokenization_utils_base.py:2419", "vocabulary=128k (passes at 512)",
        "install another release", "ftdoctor check --probe tokenizer-reload --cell vocabulary=128k", "FTD-0001",
        "more than 100,000 tokens", "loading 128k", "3 cells",
    ):  # fmt: skip
        assert words in first, words
    assert "trainer-loss" in second
    assert "unknown: no line of a library raised it" in told(page, "finding-3")
    folded = page.index("1 accepted finding<")
    assert page.index('id="finding-2"') < page.index(">Warnings<") < folded < page.index('id="finding-4"')
    assert "free disk: measured 1 GiB, expected 5 GiB" in told(page, "findings")
    assert "Fatal Python error" in told(page, "finding-3")
    assert "known (docs/known.md)" in told(page, "finding-4")


def test_many_findings_are_listed_before_the_first(runs, page_of):
    """A line each with whose it is and a link, so that all of them are seen at once; few ones list themselves."""
    culprit = Culprit("transformers", "4.57.2", "a.py", 7)
    found = [
        Finding("p", f"summary {i}", (Cell(),), culprit if i else None, accepted="known" if i == 2 else "")
        for i in range(6)
    ]
    text = html.render(runs.run((), findings=tuple(found), outcome="findings"))
    listed = re.search(r'<nav class="listed".*?</nav>', text)[0]

    assert re.findall(r'href="#(finding-\d)"', listed) == [f"finding-{i}" for i in (1, 2, 4, 5, 6)]
    assert "summary 1</bdi> <small>transformers 4.57.2, 1 cell</small>" in listed
    assert "summary 0</bdi> <small>1 cell</small>" in listed
    assert text.index(listed) < text.index('id="finding-1"')
    assert "summary 2" not in listed
    assert 'class="listed"' not in page_of("findings")


def test_code_in_a_sentence_is_set_as_code(runs):
    """In the promise and the cure; what is not closed stays as it is."""
    finding = Finding("p", "x", (Cell(),), cure="set `a = <b>` and ` alone")
    text = html.render(runs.run((), findings=(finding,), promises={"p": "`model.eval()` is kept"}, outcome="findings"))

    assert "set <code>a = &lt;b&gt;</code> and ` alone" in text
    assert "<code>model.eval()</code> is kept" in text


def test_evidence_of_a_finding_is_measured_against_expected(page_of):
    """What does not hold at once, with its tolerance and why; what holds is folded."""
    finding = part(page_of("findings"), "finding-2")
    at_once, folded = finding.split("<details", 1)

    for words in ("✗ no", "5.79907", "6.22082", "atol=3.1e-05 rtol=0; float64 loss of the model&#x27;s own logits"):
        assert words.replace("&#x27;", "'") in at_once, words
    assert "tensors in another dtype" not in at_once
    assert "3 checks that hold" in folded
    assert "· noted" in folded


TRACE = """Traceback (most recent call last):
  File "/x/train.py", line 3, in <module>
    main()
  File "/x/lib/python3.11/site-packages/trl/a.py", line 7, in f
    raise ValueError("File "y", line 7")
  File "/x/lib/python3.11/site-packages/peft/a.py", line 7, in f
    f()
    ^^^
  File "/x/lib/python3.11/runpy.py", line 9, in g
ValueError: a
of two lines

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/train.py", line 4, in <module>
KeyError: 1"""


def frames(culprit):
    drawn = traceback(TRACE, culprit)
    assert "".join(drawn.itertext()).replace("  ◀ culprit's line", "") == TRACE
    return [(span.get("class"), "".join(span.itertext()).split("\n")[0].strip()) for span in drawn]


def test_frames_of_libraries_are_dimmed_and_the_culprit_is_marked_in_words():
    """The frame at its line in its own distribution, and no other of that name."""
    assert frames(Culprit("peft", "1", "peft/a.py", 7)) == [
        ("message", "Traceback (most recent call last):"),
        ("frame", 'File "/x/train.py", line 3, in <module>'),
        ("frame library", 'File "/x/lib/python3.11/site-packages/trl/a.py", line 7, in f'),
        ("frame culprit", 'File "/x/lib/python3.11/site-packages/peft/a.py", line 7, in f  ◀ culprit\'s line'),
        ("frame library", 'File "/x/lib/python3.11/runpy.py", line 9, in g'),
        ("message", "ValueError: a"),
        ("frame", 'File "/x/train.py", line 4, in <module>'),
        ("message", "KeyError: 1"),
    ]
    again = "\n".join(f'  File "/x/{place}/a.py", line 7, in f' for place in ("peft", "peft", "mypeft"))
    marked = [span.get("class") == "frame culprit" for span in traceback(again, Culprit("peft", "1", "peft/a.py", 7))]
    assert marked == [False, True, False]  # of a recursion the last, and of another folder none
    assert not [kind for kind, _ in frames(None) if "culprit" in kind]
    assert not [kind for kind, _ in frames(Culprit("peft", "1", "peft/a.py", 8)) if "culprit" in kind]


def test_the_last_frames_of_a_crash_are_frames_too(runs):
    """As the interpreter leaves them in the output, which has no exception at its end."""
    dump = 'Fatal Python error: Aborted\n\n  File "/x/site-packages/a/b.py", line 5 in f\n  File "/x/c.py", line 6 in g\n\nExtension modules: x'
    crash = CellResult("p", Cell(), Outcome.CRASHED, reason="was killed by SIGABRT", output=dump)
    found = Finding("p", "was killed", (Cell(),), Culprit("a", "1", "a/b.py", 5))
    shown = part(html.render(runs.run([crash], findings=(found,))), "finding-1")

    assert 'class="traceback dump"' in shown
    assert "line 5 in f  ◀ culprit's line" in Page(shown).text
    assert "Extension modules: x" in Page(shown).text


def test_the_place_of_a_cell_is_its_name_and_each_is_given_once(runs):
    """What no plain name holds is encoded; a second result of a cell, and a probe called like a section, stand beside."""
    cells = [Cell.of({"dtype": "float32", "b": "x"}), Cell(), Cell.of({"a": "x,y=z w:1"})]
    results = [CellResult("findings", c, Outcome.PASSED) for c in [*cells, cells[0]]]
    found = places(runs.run(results))

    assert found.results == [
        "findings:b=x,dtype=float32", "findings:", "findings:a=x%2Cy%3Dz%20w%3A1", "findings:b=x,dtype=float32~2",
    ]  # fmt: skip
    assert found.probes == {"findings": "findings~2"}
    assert found.cells["findings", cells[0]] == "findings:b=x,dtype=float32"
    assert tally.place("p", Cell.of({"a": "\ud800~2"})) == "p:a=%3F%7E2"


def test_every_cell_is_a_square_that_leads_to_its_evidence(make_run, page_of):
    """Named in words, with a mark that is not its colour alone."""
    run, page = make_run("findings"), page_of("findings")
    squares = [a for tag, a in Page(page).elements if tag == "a" and a.get("class", "").startswith("cell ")]
    marks = re.findall(r'<a class="cell \w+" [^>]*>(.)</a>', page)

    assert [(a["href"], a["class"]) for a in squares] == [
        (f"#{tally.place(r.probe, r.cell)}", f"cell {r.outcome.value}") for r in run.results
    ]
    assert marks == [tally.MARKS[r.outcome] for r in run.results]
    assert squares[1]["aria-label"] == "passed: tokenizer-reload family=llama vocabulary=512"
    assert {a["href"][1:] for a in squares} <= {a.get("id") for tag, a in Page(page).elements if tag == "tr"}


def test_evidence_has_a_line_for_each_cell_and_a_column_for_each_check(page_of):
    """Checks that fail somewhere stand first; what all cells share is said once; passed probes are folded."""
    page = page_of("findings")
    shown = part(page, "label-alignment")
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', shown)
    line = part(page, "label-alignment:adapter=lora_head,family=qwen3")

    assert heads[:4] == ["outcome", "adapter", "family", "scored tokens"]
    assert heads[-1] == "time"
    assert Page(line).text.startswith("✗ failedlora_headqwen3✗ 6expected 5")
    folds = {a["id"]: "open" in a for tag, a in Page(page).elements if tag == "details" and "id" in a}
    assert (folds["label-alignment"], folds["token-mean-loss"]) == (True, False)
    assert "12 cells, all with family=llama" in told(page, "training-run")
    assert 'scope="col">family<' not in part(page, "training-run")
    assert "atol=3.1e-05 rtol=0" in told(page, "loss-reference")
    assert "AttributeError: 'dict'" in told(page, "tokenizer-reload:family=llama,vocabulary=128k")


def test_many_names_of_checks_share_a_column_and_of_one_name_the_failed_is_shown(runs):
    """No table of a hundred empty columns, and no failure behind a check that holds."""
    many = CellResult(
        "p", Cell(), Outcome.PASSED, checks=tuple(CheckRecord(f"check {i}", True, "1") for i in range(30))
    )
    twice = CellResult(
        "q", Cell(), Outcome.FAILED, checks=(CheckRecord("a", False, "2", "1"), CheckRecord("a", True, "1"))
    )
    page = html.render(runs.run([many, twice]))

    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', part(page, "p")) == ["outcome", "checks", "time"]
    assert "check 29: 1" in told(page, "p")
    assert "✗ 2" in told(page, "q:")


def test_what_is_missing_or_must_be_known_is_said_at_the_top(page_of):
    """Interrupted, not redacted; and neither where it is not so."""
    text, healthy = Page(page_of("interrupted")).text, Page(page_of("healthy")).text

    assert "Not redacted. Look through it before you attach it" in text
    assert "Interrupted. What had been examined" in text
    assert "46 planned cells: the run was interrupted before them" in text
    assert "Redaction" not in text
    assert "Not redacted" not in healthy
    assert "Interrupted." not in healthy


def test_a_run_of_nothing_is_no_healthy_run(runs):
    """Nothing is green on it."""
    page = html.render(runs.run([], outcome="unexamined", planned=4, stack={}, redaction=Redaction(True)))

    assert "– nothing could be examined; 0 of 4 planned cells" in page
    assert "Nothing was examined, so nothing was found." in page
    assert "nothing of it is installed" in page
    assert "4 planned cells: they have no result" in page
    assert "Nothing had to be taken out" in page
    assert 'id="evidence"' not in page


def test_sensitivity_counts_the_faults_of_each_probe(page_of):
    """Caught, missed, skipped, and whether it is quiet without a fault; what went wrong stands apart."""
    page = page_of("healthy")
    rows = [Page(row).text for row in re.findall(r"<tr>.*?</tr>", part(page, "selftest"))]

    assert rows[1:4] == [
        "tokenizer-reload1 of 100✓ clean in 1",
        "loss-reference0 of 1✗ 10✗ red in 1",
        "quantized-load0 of 101not tried",
    ]
    assert [row[:3] for row in rows[5:7]] == ["✗ m", "✗ r"]
    assert "1 of 2 faults caught, 1 probe red without a fault, 1 skipped" in told(page, "selftest")
    assert 'id="selftest"' not in page_of("findings")


def figures(runs, **evidence):
    made = CellResult("p", Cell.of({"dtype": "bf16"}), Outcome.PASSED, **evidence)
    return re.findall(r"<figure>.*?</figure>", html.render(runs.run([made])), re.DOTALL)


def test_curves_of_one_name_share_a_plot_and_differ_in_form(runs):
    """Not in colour alone; a value that is not finite is a gap and a cross, and is told in words."""
    drawn = figures(runs, curves=(*runs.curves(), Curve("once", (5,), (1.0,)), Curve("level", (1, 2), (3.0, 3.0))))
    loss, norm, once, level = drawn
    picture = ET.fromstring(re.search(r"<svg .*?</svg>", norm)[0])
    lines = [len(line.get("points").split()) for line in picture.iter("polyline")]

    assert [re.search(r"<strong>(.*?)</strong>", d)[1] for d in drawn] == [
        "loss (nats a token)",
        "gradient norm",
        "once",
        "level",
    ]
    assert re.findall(r"<li>.*?</svg> (.*?)</li>", loss) == ["naive script", "ftdoctor"]
    assert loss.count("<circle") > 1
    assert loss.count("<rect") > 1
    assert lines == [6, 5]
    assert [e.text for e in picture.iter("text") if e.get("class") == "failure"] == ["✗"]
    assert "gradient norm; from 1.5 at step 1 to 0.125 at step 12, not finite at step 7" in norm
    assert "loss; naive script: from 5.89 at step 1 to 2.48 at step 12; ftdoctor: from 5.49" in loss
    assert "<circle" in once
    assert len({point.split(",")[1] for point in re.search(r'points="([^"]*)" class="line', level)[1].split()}) == 1


def test_a_long_curve_is_thinned_and_keeps_its_gaps_and_its_end(runs):
    """A picture of 20,000 values is none of a megabyte."""
    values = tuple(None if i == 12_345 else float(i) for i in range(20_000))
    (drawn,) = figures(runs, curves=(Curve("loss", tuple(range(20_000)), values),))

    assert len(drawn) < 12_000
    assert drawn.count("✗") == 1
    assert "to 2e+04 at step 19999, not finite at step 12345" in drawn


def test_numbers_of_any_length_are_no_mistake(runs):
    """A document written by hand may hold them."""
    (drawn,) = figures(runs, curves=(Curve("loss", (1, 2, 10**400), (10**400, 1.0, 1.0)),))

    assert "from 1 at step 2 to 1 at step 2, not finite at step 1" in drawn


def test_pictures_hold_numbers_only(page_of):
    """However far apart the values of a curve lie."""
    assert re.findall(r'(?:points|c?[xy][12]?)="[^"]*(?:nan|inf)[^"]*"', page_of("hostile")) == []
    assert plot.scale(-1.7e308, 1.7e308, 0, 10)(1.7e308) == 10


def test_the_evidence_of_very_many_cells_is_folded(page_of):
    """Though some of them are red: who looks for them comes from a square."""
    folds = {a["id"]: "open" in a for tag, a in Page(page_of("many")).elements if tag == "details" and "id" in a}

    assert not any(folds[name] for name in ("training-run", "loss-reference"))
    assert folds["tokenizer-reload"]


def test_a_label_mask_says_which_tokens_are_scored_and_which_should_be(runs):
    """In words for each run of tokens, with spaces and line feeds seen."""
    (drawn,) = figures(runs, label_masks=(runs.mask(wrong=True),))
    text = Page(drawn).text

    assert "6 of 16 tokens scored, 3 tokens otherwise than expected" in text
    assert "scored: ·3?✗ should not be scored" in text
    assert "not scored: <|im_end|>✗ should be scored" in text
    assert "not scored: <|im_end|>↵assistant↵scored: It·is·4." in text
    (right,) = figures(runs, label_masks=(runs.mask(),))
    assert "5 of 16 tokens scored, as expected" in Page(right).text
    assert "should" not in right
    (plain,) = figures(runs, label_masks=(LabelMask("row", ("a", ""), (True, False)),))
    assert "1 of 2 tokens scored" in Page(plain).text
    assert "∅" in plain


def test_pictures_of_many_cells_are_those_of_the_red_ones_first(runs):
    """The others are counted."""
    results = [
        CellResult("p", Cell.of({"n": str(i)}), Outcome.FAILED if i == 9 else Outcome.PASSED, curves=runs.curves()[2:])
        for i in range(10)
    ]
    page = html.render(runs.run(results))

    assert page.count("<figure>") == 6
    assert (
        page.index("n=9</a></figcaption>")
        if "n=9</a></figcaption>" in page
        else re.search(r"<figcaption>.*?n=(\d)", page)[1] == "9"
    )
    assert "Curves of 4 more cells in the JSON document." in page


def test_the_page_holds_its_own_run(make_run, page_of):
    """So that it can be rendered anew and compared."""
    assert decode(Run, embedded.unpack(page_of("findings"))) == make_run("findings")


def test_the_markdown_of_the_report_and_of_each_finding_stands_on_it(make_run, page_of):
    """To be copied; with very many findings only of the first."""
    from ftdoctor_reports import markdown

    run, page = make_run("findings"), page_of("findings")

    assert told(page, "markdown-text") == markdown.render(run)
    assert told(page, "finding-2-markdown") == markdown.finding(run, run.findings[1])
    several = replace(run, findings=tuple(run.findings) * 200)
    shown = html.render(several)
    assert shown.count('class="finding"') == 600
    assert "finding-1-markdown" in shown
    assert "finding-600-markdown" not in shown


def test_a_document_of_before_has_its_page_too():
    """Which says that nothing was redacted."""
    run = json.load(PREVIOUS)
    page = html.render(run)

    assert "✗ 2 findings; 36 of 74 planned cells examined" in page
    assert "transformers/tokenization_utils_base.py:2419" in told(page, "finding-1")
    assert "◀ culprit's line" in told(page, "finding-1")
    assert "Not redacted." in page


def test_a_finding_without_its_result_is_shown(runs):
    """As in a document that was cut or written by hand."""
    lost = Finding("p", "something", (Cell.of({"a": "b"}),), depends_on={})
    page = html.render(
        runs.run(
            [CellResult("p", Cell(), Outcome.PASSED, checks=(CheckRecord("c", True, "1", level=Level.NOTE),))],
            findings=(lost,),
        )
    )

    assert "✗ p" in told(page, "finding-1")
    assert "a=b" in told(page, "finding-1")
