"""The one truth: it is valid against its published schema, and documents of before are read."""

from __future__ import annotations

import importlib.util
import json as plain
from dataclasses import replace
from pathlib import Path

import pytest

from ftdoctor.errors import FtdoctorError
from ftdoctor.results import SCHEMA, Run
from ftdoctor_reports import embedded, json

ROOT = Path(__file__).parents[2]
PREVIOUS = Path(__file__).parent / "data" / "report-1.json"
"""A real run on transformers 4.57.2, in the form of before."""


def valid(document, schema=SCHEMA):
    """The complaints of a validator."""
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(plain.loads(json.schema(schema)))
    checker.check_schema(checker.schema)
    return [error.message for error in checker.iter_errors(document)]


@pytest.mark.parametrize("kind", ["healthy", "findings", "interrupted", "hostile", "many"])
def test_a_run_is_valid_and_comes_back_as_it_was(make_run, tmp_path, kind):
    """Whatever stands in it."""
    made = make_run(kind)
    path = tmp_path / "report.json"
    path.write_text(json.render(made), encoding="utf-8")

    assert valid(plain.loads(path.read_text(encoding="utf-8"))) == []
    assert json.load(path) == made


def test_the_schema_notices_what_does_not_belong(make_run):
    """A field too many, one too few, an outcome that there is not."""
    document = plain.loads(json.render(make_run("findings")))

    assert valid({**document, "more": 1})
    assert valid({name: value for name, value in document.items() if name != "stack"})
    assert valid({**document, "outcome": "green"})
    document["results"][0]["outcome"] = "green"
    assert valid(document)


def test_the_published_schema_is_that_of_the_records():
    """Made by docs/schema.py, the same in the package and under docs/."""
    spec = importlib.util.spec_from_file_location("schema", ROOT / "docs" / "schema.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)

    assert json.schema() == program.render(), "run `python docs/schema.py`"
    for name in (*json.OLDER, SCHEMA):
        published = ROOT / "docs" / "schema" / f"{name.replace('/', '-')}.json"
        assert published.read_text(encoding="utf-8") == json.schema(name)


def test_a_document_of_the_previous_schema_is_read():
    """It is valid against its own schema; what is new stands at its default."""
    document = plain.loads(PREVIOUS.read_text(encoding="utf-8"))
    run = json.load(PREVIOUS)

    assert document["schema"] == "ftdoctor/1"
    assert valid(document, "ftdoctor/1") == []
    assert run.schema == SCHEMA
    assert [f.probe for f in run.findings] == ["tokenizer-reload", "trainer-loss"]
    assert str(run.findings[0].culprit) == "transformers 4.57.2, transformers/tokenization_utils_base.py:2419"
    assert (run.promises, run.selftest, run.redaction.done) == ({}, (), False)
    assert valid(plain.loads(json.render(run))) == []


def page(run: Run) -> str:
    return f'<!doctype html><script type="{embedded.TYPE}" id="{embedded.ID}">{embedded.pack(run)}</script>'


def test_a_run_is_read_out_of_its_page(make_run, tmp_path):
    """Whoever has the page has the run."""
    made = make_run("hostile")
    path = tmp_path / "report.html"
    path.write_text(page(made), encoding="utf-8")

    assert json.load(path) == made


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"The report .*report cannot be read: No such file or directory\."),
        (b"{", r"report is not a report of ftdoctor: expecting property name"),
        (b"[1]", r"it names no schema such as ftdoctor/2\."),
        (b'{"schema": 7}', r"it names no schema"),
        (b'{"schema": "ftdoctor/99"}', r"it has the schema ftdoctor/99, this ftdoctor reads up to ftdoctor/2: upgrade"),
        (b'{"schema": "ftdoctor/2", "results": 5}', r"this is not a Run"),
        (b"\xff\xfe\x00", r"report is not a report of ftdoctor"),
        (b"<html></html>", r"this page holds no run of ftdoctor\."),
        (b'<script id="ftdoctor-run">AAAA</script>', r"the run in this page cannot be read"),
        (b"[" * 200_000, r"report is not a report of ftdoctor"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path, content, sentence):
    """In one sentence, with the file in it."""
    path = tmp_path / "report"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FtdoctorError, match=sentence) as refused:
        json.load(path)

    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"machine": {}}, "its machine lacks facts"),
        ({"machine": {**plain.loads(PREVIOUS.read_text())["machine"], "gpus": [{}]}}, "its machine lacks facts"),
    ],
)
def test_half_a_document_is_refused(tmp_path, changes, sentence):
    """One that was changed by hand, and would break every form."""
    path = tmp_path / "report.json"
    path.write_text(plain.dumps({**plain.loads(PREVIOUS.read_text()), **changes}))
    with pytest.raises(FtdoctorError, match=sentence):
        json.load(path)


def test_a_page_that_was_cut_off_is_refused(make_run, tmp_path):
    """Not read by half."""
    whole = page(make_run("findings"))
    packed = embedded.pack(make_run("findings"))
    path = tmp_path / "report.html"
    path.write_text(whole.replace(packed, packed[: len(packed) // 8 * 4]), encoding="utf-8")
    with pytest.raises(FtdoctorError, match="cut off"):
        json.load(path)


def test_a_page_that_unpacks_without_end_is_refused(monkeypatch, make_run, tmp_path):
    """A few bytes may stand for very many."""
    monkeypatch.setattr(embedded, "LIMIT", 1000)
    path = tmp_path / "report.html"
    path.write_text(page(replace(make_run("findings"), model="x" * 100_000)), encoding="utf-8")
    with pytest.raises(FtdoctorError, match="larger than any of ours"):
        json.load(path)
