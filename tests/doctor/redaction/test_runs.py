"""Nothing that must not be written is in any form of a run, nor in its journal."""

from __future__ import annotations

import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from ftdoctor.cells import Cell
from ftdoctor.redaction import here
from ftdoctor.results import (
    CellResult,
    CheckRecord,
    Isolation,
    LabelMask,
    Outcome,
    Redaction,
    Run,
    Trial,
    decode,
    encode,
)
from ftdoctor.runner.journal import Journal

planted = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("planted.py"))))


@pytest.fixture(scope="module")
def written():
    """The forms of the planted run, redacted, and the secrets."""
    run, found = planted.run()
    return planted.forms(here(planted.ADA).run(run)), found


FORMS = [
    "json", "html", "inside of html", "markdown", "a finding", "junit", "summary", "annotations", "terminal",
    "difference in json", "difference in markdown", "difference in html", "difference on a terminal",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_no_planted_secret_is_in_any_form(form, written):
    """More than 70 secrets of more than 40 kinds, in every text of a run; as they are, escaped, and in base64."""
    texts, found = written

    assert sorted(texts) == sorted(FORMS)
    assert len(found) > 70
    for secret in (*found, *planted.OF_ADA):
        for shape in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
            assert shape not in texts[form], shape


def test_the_forms_of_a_run_that_is_not_redacted_hold_them():
    """Or else the test above could not fail: JSON all of them, every other form some."""
    run, found = planted.run()
    texts = planted.forms(run)

    assert all(json.dumps(secret, ensure_ascii=False)[1:-1] in texts["json"] for secret in found)
    assert [form for form in FORMS if not any(secret in texts[form] for secret in found)] == []


def test_another_scanner_finds_nothing_either(written, tmp_path):
    """detect-secrets, which finds most of them in what was not redacted."""
    scan = pytest.importorskip("detect_secrets.core.scan")
    from detect_secrets.settings import default_settings

    def found(text):
        with default_settings() as used:
            used.disable_plugins(
                "Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector", "KeywordDetector"
            )
            return {(s.type, s.secret_value) for line in text.splitlines() for s in scan.scan_line(line)}

    run, _ = planted.run()
    before = found(planted.forms(run)["json"])
    texts, _ = written

    assert len({kind for kind, _ in before}) >= 12
    assert {name: found(text) for name, text in texts.items() if found(text)} == {}


def test_a_run_says_what_was_taken_out_and_twice_is_as_once():
    """By kind; ordinary parts are as they were, and tokens of a label mask stay as many."""
    run, _ = planted.run()
    redactor = here(planted.ADA)
    once = redactor.run(run)

    assert once.redaction.done
    assert once.redaction.removed["Hugging Face token"] > 10
    assert once.redaction.removed["home folder"] > 10
    assert redactor.run(once) == once
    assert decode(Run, json.loads(json.dumps(encode(once)))) == once
    assert once.installed == run.installed
    assert once.environment["OMP_NUM_THREADS"] == "1"
    assert once.environment["HF_TOKEN"] == "<redacted: value of HF_TOKEN>"
    assert once.environment["HF_HOME"] == "~/hf"
    assert once.environment["UV_INDEX_URL"] == "<private address>"
    assert once.configuration["probes"] == ["token-mean-loss"]
    assert [(r.probe, r.cell, r.outcome) for r in once.results] == [(r.probe, r.cell, r.outcome) for r in run.results]
    assert len(once.results[0].label_masks[0].tokens) == len(run.results[0].label_masks[0].tokens)
    assert (
        "".join(once.results[0].label_masks[0].tokens)
        == "<redacted: Hugging Face token> <redacted: AWS access key> ~/x"
    )


def test_a_healthy_run_of_the_machine_stays_as_it_is():
    """Nothing to take out: the same objects."""
    run, _ = planted.run()
    plain = replace(
        run, results=(CellResult("a", Cell.of({"family": "llama"}), Outcome.PASSED, checks=(CheckRecord("loss", True, "1.5", "1.5"),)),),
        findings=(), skipped=(), notes=(), promises={}, environment={}, configuration={}, selftest=(), model="",
        isolation=Isolation("fork server", "because"), machine={"python": "3.11"},
    )  # fmt: skip

    assert here(planted.ADA).run(plain) == replace(plain, redaction=Redaction(True))


def test_only_secrets_are_taken_out_of_the_journal(tmp_path, monkeypatch):
    """Names and paths stay: resuming needs them, and the dump of a crash names its line by its path."""
    run, found = planted.run()
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin({"fingerprint": "x", "model": "/home/ada.lovelace/models/x", "note": planted.TOKENS["AWS"]})
    for result in run.results:
        journal.add(result)
    text = (tmp_path / "journal.jsonl").read_text()

    assert not [secret for secret in found if json.dumps(secret)[1:-1] in text and secret not in ("abc9", "hi there 9")]
    assert "/home/ada.lovelace/models/x" in text
    assert "/home/ada.lovelace/x" in journal.results()["x", Cell.of({"family": "llama"})].output


def test_two_thousand_cells_take_half_a_second():
    """Of ordinary texts, in processor time; hostile lines take limited time too."""
    cells = [Cell.of({"family": "llama", "n": str(i)}) for i in range(2000)]
    run, _ = planted.run()
    results = tuple(
        CellResult(f"probe-{i % 40}", cell, Outcome.PASSED, checks=tuple(
            CheckRecord(f"check {k}", True, f"{i * k / 7:.6g} of the tokens [1, 2, {i}], key_states", f"{i} tokens at /usr/lib/x", "atol=1e-5 rtol=0", "why " * 20)
            for k in range(4)), warnings=(f"FutureWarning: `tokenizer` is deprecated ({i})",))
        for i, cell in enumerate(cells)
    )  # fmt: skip
    many = replace(run, results=results, findings=(), skipped=(), notes=())
    redactor = here(
        {
            **planted.ADA,
            "HF_TOKEN": planted.TOKENS["Hugging Face"],
            "OTHER_KEY": planted.made("", planted.ALNUM, 30),
        }
    )
    begun = time.process_time()
    redactor.run(many)

    assert time.process_time() - begun < 2.0  # 0.35 s on an ordinary core


def test_nothing_that_a_cell_lets_out_reaches_a_file(unruly, ftdoctor, state_folder, tmp_path, monkeypatch):
    """Printed, warned, recorded, raised, in texts that are cut: not the reports, nor the journal, nor the terminal."""
    summary = tmp_path / "summary.md"
    own = planted.made("", planted.ALNUM, 30, 5)
    monkeypatch.setenv("LEAKED", " ".join([*planted.TOKENS.values(), own]))
    monkeypatch.setenv("ACME_API_KEY", own)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    reports = [f"--{form}={tmp_path / 'report'}.{form}" for form in ("json", "html", "markdown", "junit")]
    done = ftdoctor("check", "--probe", "leaks", *reports, light=True)
    files = [p for p in (*tmp_path.glob("report.*"), *state_folder.rglob("*"), summary) if p.is_file()]
    written = {p.name: p.read_text() for p in files} | {"terminal": done.stdout + done.stderr}

    assert done.returncode == 1, done.stderr
    assert {"report.json", "report.html", "report.markdown", "report.junit", "journal.jsonl", "summary.md"} <= {
        *written
    }
    for name, text in written.items():
        for token in (*planted.TOKENS.values(), own):
            assert not any(token[i : i + 12] in text for i in range(8, max(9, len(token) - 12))), (name, token)
    assert "<redacted: value of ACME_API_KEY>" in written["report.json"]


@pytest.mark.parametrize("arguments", [["env"], ["env", "--json"]])
def test_env_hides_who_it_is_unless_asked_not_to(arguments, ftdoctor, tmp_path, monkeypatch):
    """The path of Python holds a home folder."""
    home = str(Path(sys.executable).parents[1])
    monkeypatch.setenv("HOME", home)
    hidden, bare = ftdoctor(*arguments), ftdoctor(*arguments, "--no-redact")

    assert home not in hidden.stdout
    assert "~/bin/python" in hidden.stdout
    assert f"{home}/bin/python" in bare.stdout
    assert "not redacted" in bare.stderr


def test_a_user_who_is_called_like_a_field_wrecks_no_run():
    """What a reader of the document goes by is never a name."""
    run, _ = planted.run()
    for user in ("ftdoctor", "findings", "caught", "2.13.0"):
        cleaned = here({"HOME": f"/home/{user}", "USER": user, "HOSTNAME": user}).run(run)

        assert (cleaned.schema, cleaned.outcome, cleaned.stack) == (run.schema, run.outcome, run.stack)
        assert [t.verdict for t in cleaned.selftest] == [t.verdict for t in run.selftest]


TOKEN = planted.TOKENS["Hugging Face"]


@pytest.mark.parametrize(
    ("tokens", "left"),
    [
        (["a ", *TOKEN, " b"], ["a ", "<redacted: Hugging Face token>", *[""] * (len(TOKEN) - 1), " b"]),
        (["x" + TOKEN[:5], TOKEN[5:] + " y"], ["x<redacted: Hugging Face token>", " y"]),
        (["~", " ~", " " + TOKEN], ["~", " ~", " <redacted: Hugging Face token>"]),
        ([TOKEN, " ", TOKEN, " "], ["<redacted: Hugging Face token>", " ", "<redacted: Hugging Face token>", " "]),
        (["plain", " words"], ["plain", " words"]),
    ],
)
def test_tokens_of_a_label_mask_stay_as_many(tokens, left):
    """The first one of a secret holds its placeholder, the others nothing of it."""
    mask = LabelMask("row", tuple(tokens), (True,) * len(tokens))

    assert list(here(planted.ADA).record(mask).tokens) == left


def test_a_mask_that_is_meant_to_be_slow_takes_limited_time():
    """Many placeholders, and as many pieces between them."""
    mask = LabelMask("row", ("~ " * 40,) * 400 + tuple(TOKEN), (True,) * (400 + len(TOKEN)))
    begun = time.process_time()

    assert TOKEN[5:9] not in "".join(here(planted.ADA).record(mask).tokens)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_selftest_hides_names_unless_asked_not_to_and_secrets_always(arguments, monkeypatch):
    """Why a fault was missed may hold a path, or a token."""
    from click.testing import CliRunner

    from ftdoctor.cli.selftest_command import command

    told = Trial("x", "a fault", Cell(), "missed", f"not caught in /home/grace/x with {TOKEN}")
    monkeypatch.setattr("ftdoctor.selftest.trials", lambda request, listen: [listen(told), told][1:])
    hidden, bare = (CliRunner().invoke(command, [*arguments, *more]).output for more in ([], ["--no-redact"]))

    assert "/home/<user>/x with <redacted: Hugging Face token>" in " ".join(hidden.split())
    assert "grace" not in hidden
    assert "/home/grace/x with <redacted: Hugging Face token>" in " ".join(bare.split())
