"""What a first look costs: `check --profile quick` against the bare import of the stack.

    python tests/benchmarks/quick.py

Prints ratios of one run; seconds differ from machine to machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

IMPORT = "import torch, transformers, peft, trl, bitsandbytes\nfrom transformers import Trainer, LlamaForCausalLM\nfrom trl import SFTTrainer"
TARGET = 3
ROUNDS = 3


def main() -> None:
    """Time both in turn, so that a busy minute falls on both."""
    bare, check = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            bare.append(seconds([sys.executable, "-W", "ignore", "-c", IMPORT], folder))
            check.append(seconds([sys.executable, "-m", "ftdoctor", "check", "--profile", "quick", "--quiet"], folder))
    ratio = statistics.median(check) / statistics.median(bare)
    print(f"bare import of the stack  {statistics.median(bare):.2f} s")
    print(f"check --profile quick     {statistics.median(check):.2f} s")
    print(f"ratio                     {ratio:.2f} (target: at most {TARGET})")
    sys.exit(0 if ratio <= TARGET else 1)


def seconds(command: list[str], folder: str) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
