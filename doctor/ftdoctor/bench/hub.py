"""Fetches the user's model from the hub, in a process of its own, before any cell runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ftdoctor.errors import ModelError
from ftdoctor.wording import shorten

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Configuration, tokenizer and safetensors weights; never pickled weights or code."""
SCRIPT = """
import sys
from huggingface_hub import snapshot_download
patterns = sys.argv[2].split(",") + (["*.py"] if sys.argv[3] == "code" else [])
try:
    print(snapshot_download(sys.argv[1], allow_patterns=patterns))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}".splitlines()[0])
"""


def fetch(model: str, trust_remote_code: bool = False) -> Path:
    """Download a model into the user's own hub cache and return its folder.

    Raises:
        ModelError: it could not be fetched.
    """
    arguments = [sys.executable, "-c", SCRIPT, model, ",".join(WANTED), "code" if trust_remote_code else ""]
    kept = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment = {**kept, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise ModelError(
            f"The model {model!r} could not be fetched from the hub ({shorten(lines[-1], 300)}); "
            "check its name and your connection, or give a local folder."
        )
    return Path(done.stdout.splitlines()[-1])
