"""On a stack of other versions: not one of them is moved, and the fault of that stack is named.

Each builds a virtual environment with uv from the package index, so they are run on request:

    python -m pytest -m other_stack
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.other_stack

PROJECT = Path(__file__).parents[2]
SUBJECTS = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "safetensors",
)


def versions(uv, python: str) -> dict[str, str]:
    """Return the versions of what the user trains with."""
    listed = json.loads(uv("pip", "list", "--format", "json", "--python", python))
    return {entry["name"]: entry["version"] for entry in listed if entry["name"] in SUBJECTS}


@pytest.fixture(scope="module")
def older(tmp_path_factory, uv, build):
    """Return the Python of the stack of transformers 4.57.2 with this project, and its versions before and after."""
    python = build(
        tmp_path_factory.mktemp("older") / "venv",
        "torch==2.13.0",
        "transformers==4.57.2",
        "peft==0.18.0",
        "bitsandbytes==0.49.0",
        "trl==0.25.1",
    )
    before = versions(uv, python)
    uv("pip", "install", "--quiet", "--python", python, str(PROJECT))
    return python, before, versions(uv, python)


def test_the_tokenizer_fault_of_transformers_4_57_2_is_found(older, tmp_path):
    """Named with release, file and line, and with the vocabulary on which it depends; nothing was moved."""
    python, before, after = older
    done = subprocess.run(
        [python, "-m", "ftdoctor", "check", "--probe", "tokenizer-reload", "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout)
    (finding,) = report["findings"]

    assert after == before
    assert done.returncode == 1
    assert finding["summary"] == "AttributeError: 'dict' object has no attribute 'model_type'"
    assert finding["culprit"] == {
        "distribution": "transformers",
        "version": "4.57.2",
        "file": "transformers/tokenization_utils_base.py",
        "line": 2419,
    }
    assert finding["depends_on"] == {"vocabulary": "128k"}
    assert "not on family" in finding["dependence"]
    assert {r["outcome"] for r in report["results"] if r["cell"]["vocabulary"] == "512"} == {"passed"}


PREDICTIONS = ("sample-predictions", "disturbed-training", "failing-sample", "batched-predictions")


def test_predictions_come_out_right_where_the_script_and_trl_0_25_fail(older, tmp_path):
    """In the cells of the bug report that this project began with: weights of mixed dtypes under the trainer's bf16."""
    python, _, _ = older
    probes = [word for name in PREDICTIONS for word in ("--probe", name)]
    done = subprocess.run(
        [python, "-m", "ftdoctor", "check", *probes, "--cell", "stray=none,norms,head", "--cell",
         "mixed_precision=none,bf16", "--cell", "family=qwen3,llama", "--cell", "device=cpu", "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout)
    told = [
        (result["cell"]["stray"], {other["way"]: other["ok"] for other in check["beside"]}, check["ok"])
        for result in report["results"]
        for check in result["checks"]
        if check["name"] == "failed predictions"
    ]

    assert done.returncode == 0, done.stderr
    assert {stray for stray, beside, ok in told if ok and not beside["naive"] and not beside["library"]} == {
        "norms", "head",
    }  # fmt: skip
    assert all(ok for _, _, ok in told)


def test_a_library_that_no_longer_imports_is_one_finding(tmp_path, build):
    """peft 0.17.1 beside transformers 5: everything that needs peft fails, and one line of peft is named."""
    python = build(
        tmp_path / "venv", "torch==2.13.0", "transformers==5.23.0", "peft==0.17.1", "trl==1.16.0", str(PROJECT)
    )
    done = subprocess.run(
        [python, "-m", "ftdoctor", "check", "--profile", "quick", "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    (finding,) = json.loads(done.stdout)["findings"]

    assert done.returncode == 1
    assert finding["probe"] == "stack-imports"
    assert finding["summary"].startswith("ImportError: cannot import name 'HybridCache' from 'transformers'")
    assert (finding["culprit"]["distribution"], finding["culprit"]["version"]) == ("peft", "0.17.1")
    assert finding["culprit"]["file"] == "peft/peft_model.py"
    assert {"training-run", "checkpoint-reload"} <= set(finding["also"])


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_without_a_stack_the_base_install_answers(tmp_path, uv, build, version):
    """On every Python: env, list and explain work, and check says that nothing could be examined."""
    try:
        uv("python", "find", "--no-python-downloads", version)
    except RuntimeError:
        pytest.skip(f"there is no Python {version} on this machine")
    python = build(tmp_path / "venv", str(PROJECT), version=version)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "ftdoctor", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("check", "--probe", "loading")

    assert done.returncode == 3
    assert "no library of the fine-tuning stack is installed" in done.stdout
    assert "transformers is not installed" in done.stdout
    assert [run(*words).returncode for words in (("env",), ("list",), ("explain", "tokenizer-reload"))] == [0, 0, 0]
