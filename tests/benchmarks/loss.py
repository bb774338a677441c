"""What the token mean costs beside transformers' own loss, at a vocabulary of 128k: peak memory and time.

    python tests/benchmarks/loss.py

Prints ratios of one run, forwards and backwards together; both must be at most 1. Memory is what a process that does
nothing else needs at its peak beyond the interpreter and the libraries: logits, gradient and all that lies between.
Time is the shortest of interleaved repetitions.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

VOCABULARY = 128_256
ROWS = {"memory": 1024, "time": 512}
REPETITIONS = 7
KINDS = ("ours", "library")
CASES = [(dtype, share) for dtype in ("float32", "bfloat16") for share in (1.0, 0.25)]


def main() -> None:
    """Print both ratios for each dtype and share of scored tokens."""
    worst = 0.0
    # Memory first: a process begins with the peak of the one that started it.
    measured = {case: {kind: peak_bytes(kind, *case) for kind in KINDS} for case in CASES}
    for (dtype, share), peaks in measured.items():
        seconds = times(dtype, share)
        memory, duration = peaks["ours"] / peaks["library"], seconds["ours"] / seconds["library"]
        worst = max(worst, memory, duration)
        print(
            f"{dtype:9} logits, {share:4.0%} scored   "
            f"peak memory {memory:.2f} ({peaks['ours'] / 2**20:.0f} against {peaks['library'] / 2**20:.0f} MiB)   "
            f"time {duration:.2f} ({seconds['ours']:.3f} against {seconds['library']:.3f} s)"
        )
    print(f"largest ratio {worst:.2f} (target: at most 1)")
    sys.exit(0 if worst <= 1 else 1)


def peak_bytes(kind: str, dtype: str, share: float) -> int:
    """Return the peak of a process of its own that computes one loss and its gradient."""
    command = [sys.executable, __file__, "peak", kind, dtype, str(share)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def times(dtype: str, share: float) -> dict[str, float]:
    """Return kind to seconds."""
    calls = {kind: prepared(kind, dtype, share, ROWS["time"]) for kind in KINDS}
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repetition in range(REPETITIONS + 1):
        for kind, call in calls.items():
            started = time.perf_counter()
            call()
            if repetition:  # the first is for warming up
                found[kind].append(time.perf_counter() - started)
    return {kind: min(seconds) for kind, seconds in found.items()}


def prepared(kind: str, dtype: str, share: float, rows: int):
    """Return a call that computes the loss of random logits and its gradient."""
    import torch
    from transformers.loss.loss_utils import ForCausalLMLoss

    from ftdoctor.training.loss import token_mean_loss

    torch.manual_seed(0)
    logits = torch.empty(1, rows, VOCABULARY, dtype=getattr(torch, dtype)).normal_().requires_grad_()
    labels = torch.randint(0, VOCABULARY, (1, rows))
    labels[:, : round(rows * (1 - share))] = -100
    losses = {
        "ours": lambda: token_mean_loss(logits, labels),
        "library": lambda: ForCausalLMLoss(logits, labels, VOCABULARY),
    }

    def call() -> None:
        losses[kind]().backward()
        logits.grad = None

    return call


def peak() -> None:
    """Print how far one loss and gradient raise the peak of this process."""
    _, _, kind, dtype, share = sys.argv
    prepared(kind, dtype, float(share), 2)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepared(kind, dtype, float(share), ROWS["memory"])()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) * (1 if sys.platform == "darwin" else 1024))


if __name__ == "__main__":
    peak() if sys.argv[1:2] == ["peak"] else main()
