"""The command line as a user meets it: quick answers, one sentence for a mistake, honest exit statuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from ftdoctor import __version__
from ftdoctor.cli import COMMANDS

QUICK = (("--help",), ("--version",), ("list",), ("list", "--axes"), ("list", "--profiles"), ("env",), ("env", "--json"),
         ("explain", "tokenizer-reload"), ("check", "--help"), ("selftest", "--help"), ("completion", "bash"))  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "datasets", "tokenizers", "numpy")


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_what_only_tells_imports_nothing_heavy(arguments, tmp_path):
    """Not torch, not numpy, no library of the stack."""
    program = (
        "import sys\nfrom ftdoctor.cli import main\n"
        f"sys.argv = ['ftdoctor', *{list(arguments)}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("chek",), "There is no command 'chek' (did you mean 'check'?); see ftdoctor --help."),
        (("check", "--probe", "tokenizer"), "There is no probe 'tokenizer' (did you mean 'tokenizer-reload'?); see `ftdoctor list`."),
        (("check", "--cell", "vocab=1"), "There is no axis 'vocab' (did you mean 'vocabulary'?); see `ftdoctor list --axes`."),
        (("check", "--profile", "quik"), "There is no profile 'quik' (did you mean 'quick'?); there are quick, default, full, reference."),
        (("check", "--jobs", "0"), "Invalid value for '--jobs' / '-j': 0 is not in the range x>=1."),
        (("check", "--model", "nowhere"), "--model nowhere is not a local folder; give a folder with config.json, or add --online for a model id on the hub."),
        (("check", "--json", "/proc/none/x.json"), "The report /proc/none/x.json cannot be written: No such file or directory; name another file."),
        (("explain", "x"), "There is no probe 'x'; see `ftdoctor list`."),
        (("check", "surprise"), "Got unexpected extra argument (surprise)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_status_2(ftdoctor, arguments, sentence):
    """On standard error, without a traceback."""
    done = ftdoctor(*arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ftdoctor: {sentence}\n")


def test_a_mistake_in_the_configuration_is_one_sentence(ftdoctor, tmp_path):
    """With the file's name."""
    (tmp_path / "ftdoctor.toml").write_text("profil = 1\n")
    done = ftdoctor("check")

    assert done.returncode == 2
    assert done.stderr.startswith(f"ftdoctor: {tmp_path}/ftdoctor.toml: there is no setting 'profil'")


def test_version_and_help(ftdoctor):
    """The help names every command."""
    assert ftdoctor("--version").stdout == f"ftdoctor, version {__version__}\n"
    assert all(f"  {name} " in ftdoctor("--help").stdout for name in COMMANDS)
    assert ftdoctor().stdout == ftdoctor("--help").stdout


@pytest.mark.parametrize(
    ("probes", "status", "verdict"),
    [
        (("healthy",), 0, "healthy; 1 of 1 planned cell examined"),
        (("red",), 1, "1 finding; 1 of 1 planned cell examined"),
        (("segfaults", "healthy"), 1, "1 finding; 2 of 2 planned cells examined"),
    ],
)
def test_the_exit_status_is_the_verdict(unruly, ftdoctor, probes, status, verdict):
    """Healthy, findings."""
    done = ftdoctor("check", *(word for p in probes for word in ("--probe", p)), light=True)

    assert done.returncode == status, done.stderr
    assert verdict in done.stdout


def test_nothing_examined_is_not_healthy(ftdoctor, tmp_path):
    """Every cell skipped: status 3."""
    done = ftdoctor(
        "check", "--probe", "training", "--cell", "mixed_precision=fp16", "--cell", "device=cpu", light=True
    )

    assert done.returncode == 3, done.stdout
    assert "nothing could be examined; 0 of" in done.stdout
    assert "fp16 mixed precision needs a GPU" in done.stdout


def test_the_first_lines_say_what_was_not_examined(unruly, ftdoctor):
    """A CPU-only machine certifies no GPU."""
    out = ftdoctor("check", "--probe", "healthy", light=True).stdout.splitlines()

    assert out[0].startswith(f"ftdoctor {__version__} · ")
    assert "no GPU: nothing here certifies a GPU" in out[0]


def test_quiet_prints_the_verdict_alone(unruly, ftdoctor):
    """And nothing on standard error."""
    done = ftdoctor("check", "--probe", "healthy", "--quiet", light=True)

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_json_on_standard_output_is_nothing_but_json(unruly, ftdoctor):
    """What a person reads goes to standard error."""
    done = ftdoctor("check", "--probe", "red", "--json", light=True)
    report = json.loads(done.stdout)

    assert done.returncode == 1
    assert report["outcome"] == "findings"
    assert report["results"][0]["checks"][0] == {
        "name": "sum", "ok": False, "measured": "2", "expected": "3", "tolerance": "", "why": "", "level": "fail", "owner": None, "beside": [],
        "value": None, "allowed": None,
    }  # fmt: skip


def test_reports_are_written_into_folders_that_are_made(unruly, ftdoctor, tmp_path):
    """Both forms at once."""
    done = ftdoctor("check", "--probe", "healthy", "--json", "a/b.json", "--html", "c/d.html", light=True)

    assert done.returncode == 0
    assert json.loads((tmp_path / "a/b.json").read_text())["schema"] == "ftdoctor/2"
    assert (tmp_path / "c/d.html").read_text().startswith("<!doctype html>")


def test_the_configuration_counts_and_the_command_line_wins(unruly, ftdoctor, tmp_path):
    """Probes and accepted findings from the file."""
    accept = '[[accept]]\nprobe = "red"\nreason = "one and one"\nfails = ["sum"]\n'
    (tmp_path / "ftdoctor.toml").write_text(f'probes = ["red"]\n{accept}')

    assert "no finding, 1 accepted; 1 of 1" in ftdoctor("check", light=True).stdout
    assert "healthy; 1 of 1" in ftdoctor("check", "--probe", "healthy", light=True).stdout


def test_an_accepted_finding_that_is_gone_is_noted(unruly, ftdoctor, tmp_path):
    """So that the list does not outlive its reasons."""
    (tmp_path / "ftdoctor.toml").write_text('[[accept]]\nprobe = "healthy"\nreason = "once"\n')

    assert (
        "the accepted finding of healthy was not seen: once"
        in ftdoctor("check", "--probe", "healthy", light=True).stdout
    )


def test_an_output_that_cannot_show_marks_gets_ascii(unruly, ftdoctor):
    """An old terminal or a log in latin-1."""
    out = ftdoctor(
        "check", "--probe", "red", light=True, env={**os.environ, "PYTHONIOENCODING": "ascii:replace"}
    ).stdout

    assert "  environment  X" in out
    assert "X red" in out


def test_a_terminal_shows_live_progress_and_a_narrow_one_loses_nothing(unruly, tmp_path):
    """On a pseudo-terminal of 40 columns."""
    master, slave = pty.openpty()
    program = "import ftdoctor_matrix as m\nk = m.libraries()\nm.libraries = lambda: m.Libraries(k.order, (), ())\nfrom ftdoctor.cli import main\nmain()"
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "check", "--probe", "red"],
        stdout=slave, stderr=slave, stdin=slave, env=environment, cwd=tmp_path,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    text = shown.decode()

    assert process.wait() == 1
    assert "importing the stack" in text
    assert "ftdoctor check --profile quick" in " ".join(text.split())


def test_list_and_explain_as_json(ftdoctor):
    """For a machine."""
    listed = json.loads(ftdoctor("list", "--json").stdout)
    told = json.loads(ftdoctor("explain", "tokenizer-reload", "--json").stdout)

    assert "tokenizer-reload" in [p["name"] for p in listed]
    assert told["axes"] == {"family": "all values", "vocabulary": "all values"}
    assert len(told["faults"]) >= 2


def test_what_is_never_planned_is_listed_with_its_reason(ftdoctor):
    """Beside the axes."""
    out = " ".join(ftdoctor("list", "--axes").stdout.split())

    assert "never planned adapter=none" in out
    assert "quantized weights cannot be trained without an adapter" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ftdoctor, shell):
    """For three shells."""
    done = ftdoctor("completion", shell)

    assert done.returncode == 0
    assert "_FTDOCTOR_COMPLETE" in done.stdout


def test_completion_of_names(ftdoctor):
    """Probes and cells, as the shell asks for them."""
    environment = {
        **os.environ,
        "_FTDOCTOR_COMPLETE": "bash_complete",
        "COMP_WORDS": "ftdoctor check --cell vocab",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from ftdoctor.cli import main; main()"], capture_output=True, text=True, check=False, env=environment
    )  # fmt: skip

    assert done.stdout.split() == ["plain,vocabulary=512", "plain,vocabulary=128k"]


def test_a_fault_that_is_slept_through_fails_the_selftest(unruly, ftdoctor):
    """Status 1, with the check that should have caught it."""
    done = ftdoctor("selftest", "--probe", "sleepy", light=True)

    assert done.returncode == 1
    assert "caught   sleepy  numbers are doubled" in done.stdout
    assert "missed   sleepy  texts are doubled: not caught by text" in done.stdout
    assert "1 of 2 faults caught, 0 probes red without a fault, 0 skipped" in done.stdout


def test_selftest_as_json(unruly, ftdoctor):
    """For a machine."""
    done = ftdoctor("selftest", "--probe", "sleepy", "--json", light=True)

    assert [(t["fault"], t["ok"]) for t in json.loads(done.stdout)] == [
        ("numbers are doubled", True),
        ("texts are doubled", False),
        ("without a fault", True),
    ]


def test_a_profiles_areas_hold_where_no_probe_is_named():
    """A first look leaves the components out, but not where they are asked for."""
    from ftdoctor.cli.asking import asked as request_of
    from ftdoctor.config import Config

    chosen = dict.fromkeys(("probes", "cells", "model", "jobs", "timeout", "trust_remote_code"))
    asked = [
        request_of({**chosen, "profile": "quick", "probes": names}, Config()).probes for names in ((), ("components",))
    ]

    assert {probe.area for probe in asked[0].values()} == {
        "environment",
        "loading",
        "masking",
        "generation",
        "numerics",
        "training",
    }
    assert {probe.area for probe in asked[1].values()} == {"components"}


def test_a_run_with_its_selftest_says_what_is_proven(unruly, ftdoctor, tmp_path):
    """The faults of the probes that were examined; one that is missed is a note, and changes no verdict."""
    done = ftdoctor("check", "--probe", "resources", "--probe", "sleepy", "--selftest", "--json", "r.json", light=True)
    report = json.loads((tmp_path / "r.json").read_text())
    verdicts = {(t["probe"], t["fault"]): t["verdict"] for t in report["selftest"]}

    assert {probe for probe, _ in verdicts} == {"resources", "sleepy"}
    assert all(verdict in ("caught", "clean") for (probe, _), verdict in verdicts.items() if probe == "resources")
    assert "missed" in verdicts.values()
    assert any("is not proven here" in note for note in report["notes"])
    assert done.returncode == {"healthy": 0, "findings": 1}[report["outcome"]], done.stderr
    assert " caught, " in done.stdout
