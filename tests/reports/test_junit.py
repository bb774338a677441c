"""JUnit XML that the schemas of Jenkins and of Ant both take, whatever a run holds, and that says what a cell found."""

from __future__ import annotations

import re
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.cells import Cell
from ftdoctor.results import CellResult, CheckRecord, Culprit, Finding, Level, Outcome, Raised, Redaction, Skipped
from ftdoctor_reports import junit

etree = pytest.importorskip("lxml.etree")

KINDS = ["healthy", "findings", "interrupted", "hostile", "many"]


def parsed(run):
    """The document as a parser that knows nothing of us reads it."""
    return etree.fromstring(junit.render(run).encode("utf-8"))


@pytest.fixture(scope="module")
def jenkins(uv, tmp_path_factory):
    """The schema of Jenkins' xUnit plugin, which stands in pytest's source distribution."""
    folder = tmp_path_factory.mktemp("pytest")
    try:
        uv(
            "tool",
            "run",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=:all:",
            "--dest",
            str(folder),
            "pytest==9.0.*",
        )
    except (RuntimeError, OSError) as error:
        pytest.skip(f"needs a package index: {str(error)[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        name = next(n for n in archive.getnames() if n.endswith("junit-10.xsd"))
        return etree.XMLSchema(etree.parse(archive.extractfile(name)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid_to_jenkins(kind, make_run, jenkins):
    """By the schema of its xUnit plugin."""
    document = parsed(make_run(kind))

    assert jenkins.validate(document), jenkins.error_log


def test_that_schema_would_say_no(jenkins):
    """It is no schema that takes anything."""
    assert not jenkins.validate(etree.fromstring("<testsuites skipped='1'/>"))


ANT = {
    "testsuites": (set(), ["testsuite"]),
    "testsuite": (
        {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "classname", "time"}, ["skipped", "error", "failure"]),
    "failure": ({"type", "message"}, []),
    "error": ({"type", "message"}, []),
    "skipped": ({"message"}, []),
    "system-out": (set(), []),
    "system-err": (set(), []),
}
"""Element to the attributes that it has in Ant's schema, all of them, and to its children in their order."""


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_to_what_ant_reads(kind, make_run):
    """Its schema is stricter: every attribute, the order of children, a time without zone, one outcome a case."""
    for element in parsed(make_run(kind)).iter():
        attributes, children = ANT[element.tag]
        tags = [child.tag for child in element]

        assert set(element.attrib) == attributes, element.tag
        assert tags == sorted(tags, key=children.index), element.tag
        assert all(
            element.get(name, "x") == " ".join(element.get(name, "x").split()) != ""
            for name in ("name", "classname", "type")
        )
        assert re.fullmatch(r"\d+\.\d{3}", element.get("time", "0.000"))
        if element.tag == "testsuite":
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.get("timestamp"))
            assert [tags.count(t) for t in ("properties", "system-out", "system-err")] == [1, 1, 1]
            assert element.get("id") == str(element.getparent().index(element))
        if element.tag == "testcase":
            assert len(element) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_planned_cell_is_a_case_of_its_own(kind, make_run):
    """GitLab takes only the first of those that share class and name; the numbers of a suite are those of its cases."""
    run = make_run(kind)
    document = parsed(run)
    cases = [(c.get("classname"), c.get("name")) for c in document.iter("testcase")]
    unreached = {(s.probe, s.cell) for s in run.skipped} - {(r.probe, r.cell) for r in run.results}

    assert len(cases) == len(run.results) + len(unreached)
    assert len(set(cases)) == len(cases) or kind == "hostile"
    for suite in document.iter("testsuite"):
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        for tag, number in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(number)) == len(suite.findall(f"testcase/{tag}"))


CELL, OTHER = Cell.of({"family": "llama", "vocabulary": "128k"}), Cell.of({"family": "qwen3", "vocabulary": "512"})
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 3\nAttributeError: no model_type\n'
RAISED = Raised("AttributeError", "no model_type", TRACE)


def one(runs, *results, **changes):
    """A run of these results of one probe."""
    return runs.run(results, **{"areas": {"tokenizer-reload": "loading"}, "skipped": (), **changes})


def test_a_failure_tells_all_that_a_person_needs(runs):
    """Who sees only the test case: culprit, dependence, cure, the command, what was measured, the traceback."""
    checks = (
        CheckRecord("ids", False, "[1, 2]", "[1, 3]", "atol=0", "the same text"),
        CheckRecord("n", True, "1", "1"),
    )
    result = CellResult(
        "tokenizer-reload",
        CELL,
        Outcome.FAILED,
        checks=checks,
        raised=RAISED,
        warnings=("W: x",),
        output="said",
        seconds=1.5,
    )
    finding = Finding(
        "tokenizer-reload",
        "x",
        (CELL,),
        Culprit("transformers", "4.57.2", "a.py", 7),
        {},
        "vocabulary=128k",
        "install another",
        "ftdoctor check",
    )
    document = parsed(one(runs, result, findings=(finding,)))
    (case,) = document.iter("testcase")
    (failure,) = case

    assert dict(case.attrib) == {
        "classname": "loading.tokenizer-reload",
        "name": "family=llama vocabulary=128k",
        "time": "1.500",
    }
    assert (failure.tag, failure.get("type"), failure.get("message")) == (
        "failure",
        "AttributeError",
        "AttributeError: no model_type",
    )
    for part in ("culprit    transformers 4.57.2, a.py:7", "depends on vocabulary=128k", "cure       install another",
                 "again      ftdoctor check", "fail       ids: measured [1, 2], expected [1, 3] (atol=0): the same text",
                 TRACE.strip(), "warning    W: x", "printed:\nsaid"):  # fmt: skip
        assert part in failure.text, part
    assert "n: measured 1" not in failure.text
    assert "tokenizer-reload family=llama vocabulary=128k [ok] n: measured 1, expected 1" in document.findtext(
        "testsuite/system-out"
    )


@pytest.mark.parametrize(
    ("outcome", "changes", "tag", "message"),
    [
        (Outcome.PASSED, {}, None, None),
        (Outcome.WARNED, {"checks": (CheckRecord("disk", False, "1", "5", level=Level.WARN),)}, None, None),
        (
            Outcome.FAILED,
            {"checks": (CheckRecord("disk", False, "1", "5"),)},
            "failure",
            "disk: measured 1, expected 5",
        ),
        (Outcome.FAILED, {"reason": "the probe measured nothing"}, "failure", "the probe measured nothing"),
        (Outcome.CRASHED, {"reason": "was killed by SIGSEGV"}, "error", "was killed by SIGSEGV"),
        (Outcome.SKIPPED, {"reason": "no GPU"}, "skipped", "no GPU"),
    ],
)
def test_each_outcome_has_its_element(outcome, changes, tag, message, runs):
    """A warning is a success to JUnit; a crash is an error."""
    (case,) = parsed(one(runs, CellResult("tokenizer-reload", CELL, outcome, **changes))).iter("testcase")

    assert [(e.tag, e.get("message")) for e in case] == ([(tag, message)] if tag else [])


def test_very_many_failures_share_what_gitlab_reads(runs):
    """30 MB; each begins with whose it is and ends with what was printed, and one alone is whole."""
    long = "&\x1b" * 5_000
    finding = Finding("p", "x", (), Culprit("torch", "2.13", "a.py", 7))

    def text(number):
        cells = [Cell.of({"i": str(i)}) for i in range(number)]
        red = [
            CellResult(
                "p", cell, Outcome.FAILED, raised=Raised("E", "m", long), output=f"{long}the end", warnings=(long,) * 3
            )
            for cell in cells
        ]
        return junit.render(one(runs, *red, findings=(replace(finding, cells=tuple(cells)),)))

    many, alone = text(300), text(1)
    failures = [c.findtext("failure") for c in etree.fromstring(many.encode()).iter("testcase")]
    assert len(many.encode()) < 30_000_000
    assert all("torch 2.13, a.py:7" in told and told.endswith("the end") for told in failures)
    assert len(etree.fromstring(alone.encode()).findtext(".//failure")) > 100_000


def test_what_is_accepted_is_skipped_with_its_reason(runs):
    """Also where another probe speaks for it; what no accepted finding explains is a failure."""
    red = [
        CellResult(probe, CELL, Outcome.FAILED, raised=RAISED) for probe in ("tokenizer-reload", "template", "other")
    ]
    accepted = Finding("tokenizer-reload", "x", (CELL,), also=("template",), accepted="known since spring")
    cases = {
        c.get("classname").rpartition(".")[2]: c for c in parsed(one(runs, *red, findings=(accepted,))).iter("testcase")
    }

    assert [cases[p][0].get("message") for p in ("tokenizer-reload", "template")] == [
        "accepted: known since spring"
    ] * 2
    assert cases["other"][0].tag == "failure"


def test_what_was_not_reached_is_skipped(runs):
    """Of a run that was interrupted."""
    run = one(
        runs,
        CellResult("tokenizer-reload", CELL, Outcome.PASSED),
        skipped=(Skipped("tokenizer-reload", OTHER, "interrupted"),),
    )

    assert [c.find("skipped") is not None for c in parsed(run).iter("testcase")] == [False, True]


def test_versions_stand_in_the_properties(runs):
    """With the verdict; and a run that is not redacted says so in each suite."""
    run = one(runs, CellResult("tokenizer-reload", Cell(), Outcome.PASSED), stack={"torch": "2.13.0"}, model="~/m")
    found = {p.get("name"): p.get("value") for p in parsed(run).iter("property")}

    assert found["torch"] == "2.13.0"
    assert found["model"] == "~/m"
    assert found["verdict"].startswith("healthy; 1 of 1 planned cell")
    assert found["redacted"] == "yes"
    bare = parsed(replace(run, redaction=Redaction(False)))
    assert bare.findtext("testsuite/system-err") == junit.NOT_REDACTED
    assert [c.get("name") for c in bare.iter("testcase")] == ["everywhere"]


@given(st.text(st.characters(), min_size=1))
@settings(max_examples=100)
def test_any_text_becomes_xml_that_gives_it_back(runs, text):
    """Control characters and halves of pairs as Python writes them; markup as it is."""
    result = CellResult(
        "p",
        Cell.of({text: text}),
        Outcome.FAILED,
        reason=text,
        checks=(CheckRecord(text, False, text, text),),
        output=text,
    )
    document = parsed(one(runs, result, areas={"p": text}))

    assert "".join(junit.visible(text).split()) in "".join(document.find(".//failure").text.split())


def test_a_suite_has_a_bounded_output(runs):
    """GitLab reads files of 30 MB at most."""
    long = CheckRecord("x" * 400, True, "y" * 400, "z" * 400)
    run = one(runs, *(CellResult("p", Cell.of({"n": str(i)}), Outcome.PASSED, checks=(long,) * 4) for i in range(200)))
    said = parsed(run).findtext("testsuite/system-out")

    assert len(said) <= junit.SUITE + 50
    assert re.search(r"\[\.\.\. \d+ lines left out \.\.\.\]$", said)
