"""Runs that reports are made of: healthy, with findings, interrupted, of many cells, and one that means harm."""

from __future__ import annotations

import itertools
from dataclasses import replace

from ftdoctor.cells import Cell
from ftdoctor.results import (
    CONTROL,
    SCHEMA,
    Beside,
    CellResult,
    CheckRecord,
    Culprit,
    Curve,
    Finding,
    Frame,
    Isolation,
    LabelMask,
    Level,
    Outcome,
    Raised,
    Redaction,
    Run,
    Skipped,
    Trial,
)  # fmt: skip

MACHINE = {
    "os": "Linux 6.8.0", "machine": "x86_64", "processor": "AMD EPYC 9354", "cpu_flags": ["avx2", "avx512f"], "cores": 16,
    "memory": {"total": 128 * 1024**3, "available": 120 * 1024**3}, "memory_limit": 0, "disk_free": 500 * 1024**3,
    "container": "", "python": "3.11.9", "implementation": "CPython", "executable": "~/env/bin/python", "gpus": [],
    "gpu_note": "no NVIDIA driver answers",
}  # fmt: skip
STACK = {"torch": "2.13.0+cpu", "transformers": "4.57.2", "peft": "0.18.0", "bitsandbytes": "0.49.0", "trl": "0.25.1"}
AXES = {
    "family": ("llama", "qwen3", "gemma3"),
    "quantization": ("none", "nf4", "int8"),
    "dtype": ("float32", "bfloat16", "float16"),
    "adapter": ("none", "lora", "lora_head"),
    "attention": ("eager", "sdpa"),
    "checkpointing": ("off", "reentrant", "non_reentrant"),
    "vocabulary": ("512", "128k"),
    "device": ("cpu", "cuda"),
}
PROBES = {
    "stack-imports": ("environment", ()),
    "tokenizer-reload": ("loading", ("family", "vocabulary")),
    "quantized-load": ("loading", ("family", "quantization", "dtype", "device")),
    "label-alignment": ("masking", ("family", "adapter")),
    "loss-reference": ("numerics", ("family", "dtype", "attention")),
    "training-run": ("training", ("family", "quantization", "dtype", "adapter", "checkpointing")),
    "token-mean-loss": ("components", ("dtype",)),
}
PROMISES = {name: f"What {name} promises holds in every cell in which it can be asked." for name in PROBES}
OWNER = Frame("transformers", "4.57.2", "transformers/trainer.py", 4075, "Trainer.compute_loss")
TRACEBACK = """Traceback (most recent call last):
  File "~/env/lib/python3.11/site-packages/ftdoctor_probes/tokenizer_reload.py", line 36, in tokenizer_reload
    loaded = AutoTokenizer.from_pretrained(folder)
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "~/env/lib/python3.11/site-packages/transformers/models/auto/tokenization_auto.py", line 1156, in from_pretrained
    return tokenizer_class.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
  File "~/env/lib/python3.11/site-packages/transformers/tokenization_utils_base.py", line 2419, in _from_pretrained
    if _is_local and _config.model_type not in [
                     ^^^^^^^^^^^^^^^^^^
AttributeError: 'dict' object has no attribute 'model_type'
"""
FRAME = Frame("transformers", "4.57.2", "transformers/tokenization_utils_base.py", 2419, "_from_pretrained")
EVIL = (
    "</pre></script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><style>*{display:none}</style>"
    "</div></main><!-- &amp; <a href='javascript:window.hacked=3'>x</a> \x1b[31mred\x1b]0;title\x07 \x00 \x85 \r\n"
    "a\u202egnirts\u2066b\u200f \ufeff \u2028 שלום \ud800 tab\t."
)
MEGABYTE = "x" * (1 << 20)


def cells(axes, limit):
    """Cells of these axes in a fixed order, neighbours of which differ in several axes."""
    every = [Cell.of(dict(zip(axes, values, strict=True))) for values in itertools.product(*(AXES[a] for a in axes))]
    step = next(s for s in (7, 11, 13, 17) if len(every) % s) if len(every) > 1 else 1
    return [every[i * step % len(every)] for i in range(min(limit, len(every)))]


def checks(number):
    """Measured comparisons as probes make them, some of them long."""
    return (
        CheckRecord("largest difference of the logits", True, f"{1e-7 * (number % 9):.3g}", "at most 2.22433e-05",
                    why="one rounding a step through the layers", owner=OWNER, value=1e-7, allowed=2.2e-05),
        CheckRecord("loss", True, f"{6.2 + number % 7 / 100:.5f}", f"{6.2 + number % 7 / 100:.5f}", "atol=3.1e-05 rtol=0",
                    "float64 loss of the model's own logits; the trainer's forward may sum in another order", owner=OWNER),
        CheckRecord("tensors in another dtype", True, "{}", "{}", why="as given", owner=OWNER),
        CheckRecord("token ids", True, str([number % 512 + i for i in range(60)]), str([number % 512 + i for i in range(60)]),
                    why="the same text, encoded before it was saved", owner=OWNER),
        CheckRecord("logged loss", True, "{1: 5.7991, 2: 5.6120}", level=Level.NOTE),
    )  # fmt: skip


def curves(number=0):
    """A loss that falls, of two ways, and a gradient norm that is once not finite."""
    steps = tuple(range(1, 13))
    fall = tuple(6.2 - 0.31 * s + (number % 3) / 10 for s in steps)
    norms = tuple(None if s == 7 else 1.5 / s for s in steps)
    return (
        Curve("loss", steps, fall, "naive script", "nats a token"),
        Curve("loss", steps, tuple(v - 0.4 for v in fall), "ftdoctor", "nats a token"),
        Curve("gradient norm", steps, norms),
    )


def mask(wrong=False):
    """A row of a chat, whose answer is scored; `wrong` scores the end of the question and not the end of the answer."""
    tokens = (
        "<|im_start|>",
        "user",
        "\n",
        "What",
        " is",
        " 3",
        "?",
        "<|im_end|>",
        "\n",
        "assistant",
        "\n",
        "It",
        " is",
        " 4",
        ".",
        "<|im_end|>",
    )
    scored = tuple(11 <= i < (15 if wrong else 16) or (wrong and i in (5, 6)) for i in range(16))
    return LabelMask("row 1, labels of the trainer", tokens, scored, tuple(11 <= i < 16 for i in range(16)))


def passed(probe, cell, number):
    """A cell in which everything holds."""
    made = CellResult(probe, cell, Outcome.PASSED, checks=checks(number), seconds=0.1 + number % 5 / 10)
    if cell.get("device") == "cuda":
        return CellResult(
            probe, cell, Outcome.SKIPPED, reason="this machine has no CUDA device: no NVIDIA driver answers"
        )
    if probe == "training-run" and number % 40 == 0:
        return replace(made, curves=curves(number))
    if probe == "label-alignment" and number % 3 == 0:
        return replace(made, label_masks=(mask(),))
    if probe == "token-mean-loss":
        beside = (Beside("naive", number % 2 == 0, "5.79907"), Beside("library", True, "6.22082"))
        return replace(made, checks=(replace(made.checks[1], beside=beside),))
    return made


def run(results, **changes):
    """A run of these results, redacted, with all that a run can tell."""
    red = any(r.outcome.is_red for r in results)
    values = dict(
        schema=SCHEMA, ftdoctor="0.1.0", outcome="findings" if red else "healthy", interrupted=False,
        started="2026-01-01T10:00:00+00:00", seconds=93.0, profile="default", model="", machine=MACHINE, stack=STACK,
        isolation=Isolation("fork server", "the stack is imported once"), planned=len(results), results=tuple(results),
        findings=(), skipped=tuple(Skipped(r.probe, r.cell, r.reason) for r in results if r.outcome is Outcome.SKIPPED),
        areas={name: area for name, (area, _) in PROBES.items()}, notes=("the cache of the tokenizers was empty",),
        promises=PROMISES, installed={"numpy": "2.3.5", "tokenizers": "0.22.2", "safetensors": "0.8.0"},
        environment={"OMP_NUM_THREADS": "1", "HF_TOKEN": "[redacted: secret variable]"},
        configuration={"profile": "default", "cells": {"device": ["cpu"]}, "jobs": 4}, redaction=Redaction(True, {"token": 1, "user name": 3}),
    )  # fmt: skip
    return Run(**{**values, **changes})


def healthy(limit=12, **changes):
    """All that was examined holds; a selftest was made with it."""
    results = [
        passed(probe, cell, number)
        for probe, (_, axes) in PROBES.items()
        for number, cell in enumerate(cells(axes, limit))
    ]
    trials = [
        Trial("tokenizer-reload", "config.json is read as a dict", Cell(), "caught", "token ids", ("token ids",)),
        Trial("tokenizer-reload", CONTROL, Cell(), "clean"),
        Trial("loss-reference", "the loss is divided by the rows", Cell(), "missed", "not caught by loss"),
        Trial("loss-reference", CONTROL, Cell(), "red without a fault", "loss: measured 1, expected 2"),
        Trial("quantized-load", "layers stay in float32", Cell.of({"device": "cuda"}), "skipped", "no CUDA device"),
    ]
    return run(results, **{"selftest": tuple(trials), **changes})


def findings(limit=12, **changes):
    """A tokenizer that does not load, a loss that is wrong, a crash, a warning, and a finding that is accepted."""
    results = list(healthy(limit).results)

    def change(probe, test, **values):
        for i, result in enumerate(results):
            if result.probe == probe and test(result.cell):
                results[i] = replace(result, **values)

    raised = Raised("AttributeError", "'dict' object has no attribute 'model_type'", TRACEBACK, frames=(FRAME,))
    change("tokenizer-reload", lambda c: c["vocabulary"] == "128k", outcome=Outcome.FAILED, checks=(), raised=raised,
           warnings=("UserWarning: the tokenizer has more than 100,000 tokens",), output="loading 128k\n")  # fmt: skip
    wrong = CheckRecord(
        "loss",
        False,
        "5.79907",
        "6.22082",
        "atol=3.1e-05 rtol=0",
        "float64 loss of the model's own logits",
        owner=OWNER,
    )
    change("loss-reference", lambda c: c["dtype"] == "float16", outcome=Outcome.FAILED,
           checks=(wrong, *checks(1)[2:]))  # fmt: skip
    change("label-alignment", lambda c: c["adapter"] == "lora_head", outcome=Outcome.FAILED,
           checks=(CheckRecord("scored tokens", False, "6", "5"),), label_masks=(mask(wrong=True),))  # fmt: skip
    change("training-run", lambda c: c["adapter"] == "lora_head" and c["dtype"] == "bfloat16", outcome=Outcome.CRASHED,
           checks=(), reason="was killed by SIGSEGV", output="Fatal Python error: Segmentation fault\n")  # fmt: skip
    change("stack-imports", lambda _: True, outcome=Outcome.WARNED,
           checks=(CheckRecord("free disk", False, "1 GiB", "5 GiB", level=Level.WARN),))  # fmt: skip

    def of(probe, *rest, **more):
        red = tuple(r.cell for r in results if r.probe == probe and r.outcome.is_red)
        return Finding(probe, rest[0], red, *rest[1:], **more) if red else None

    found = (
        of("tokenizer-reload", "AttributeError: 'dict' object has no attribute 'model_type'",
           Culprit("transformers", "4.57.2", "transformers/tokenization_utils_base.py", 2419), {"vocabulary": "128k"},
           "vocabulary=128k (passes at 512); not on family", "install another release of transformers",
           "ftdoctor check --probe tokenizer-reload --cell vocabulary=128k", advisories=("FTD-0001: fixed in 4.57.3",)),
        of("loss-reference", "loss: measured 5.79907, expected 6.22082", Culprit("transformers", "4.57.2", "transformers/trainer.py", 4075),
           cure="mask the prompt", again="ftdoctor check --probe loss-reference", also=("trainer-loss",)),
        of("training-run", "was killed by SIGSEGV", again="ftdoctor check --probe training-run"),
        of("label-alignment", "scored tokens: measured 6, expected 5", accepted="known (docs/known.md)"),
    )  # fmt: skip
    return run(results, **{"findings": tuple(f for f in found if f), **changes})


def interrupted():
    """The first cells of a run that was ended by Ctrl-C; not redacted."""
    made = findings()
    kept = made.results[:9]
    found = tuple(replace(f, cells=f.cells[:1]) for f in made.findings[:1])
    return run(kept, interrupted=True, planned=made.planned, findings=found, redaction=Redaction(False))


def many(number=2000):
    """As many cells as a full matrix has: those of one after the other of a further axis."""
    made = findings(400)
    results = [
        result if copy == 0 else replace(result, cell=Cell.of({**result.cell.asdict(), "stray": str(copy)}))
        for copy in range(1 + number // len(made.results))
        for result in made.results
    ][:number]
    skipped = tuple(Skipped(r.probe, r.cell, r.reason) for r in results if r.outcome is Outcome.SKIPPED)
    return replace(made, results=tuple(results), planned=len(results), skipped=skipped)


def hostile():
    """Script, markup, control sequences, right-to-left marks, halves of pairs and lines of a megabyte in every text."""
    cell = Cell.of({"family": EVIL, EVIL: "b", "long": MEGABYTE, "comma": "a,b=c d"})
    twice = Cell.of({"family": "llama"})
    bad = CheckRecord(EVIL, False, EVIL + MEGABYTE, EVIL, EVIL, EVIL)
    results = [
        CellResult(EVIL, cell, Outcome.FAILED, checks=(bad, replace(bad, name="long", ok=True)),
                   raised=Raised(EVIL, EVIL + MEGABYTE, TRACEBACK + EVIL * 50 + "\n" + MEGABYTE + "\n  File " * 3000),
                   warnings=(EVIL, MEGABYTE), output="\n" * 50_000 + EVIL + "a\x00" * 300_000, curves=(
                       Curve(EVIL, (1, 2, 3), (1.0, None, 3.0), EVIL, EVIL), Curve(MEGABYTE, tuple(range(20_000)), (1.0,) * 20_000),
                       Curve("nothing", (), ()), Curve("no number", (1, 2), (None, None)), Curve("huge", (0, 10**12), (1e308, -1e308)),
                       Curve("huger", (0, 1), (1e308, 1.7e308)),
                   ),
                   label_masks=(LabelMask(EVIL, (EVIL, "", " ", "\n", MEGABYTE, *EVIL) * 20, (True, False) * 2000, (True,) * 3),
                                LabelMask("empty", (), ()))),
        CellResult("findings", twice, Outcome.CRASHED, reason=EVIL, output=EVIL),
        CellResult("findings", twice, Outcome.WARNED, checks=(replace(bad, level=Level.WARN),)),
        CellResult("evidence", Cell(), Outcome.SKIPPED, reason=MEGABYTE),
        *(CellResult("told", Cell.of({"n": str(i)}), Outcome.PASSED, checks=(CheckRecord(f"check {i}", True, EVIL),)) for i in range(40)),
    ]  # fmt: skip
    found = tuple(
        Finding(probe, EVIL + MEGABYTE, cells_, Culprit(EVIL, EVIL, EVIL, 1), {EVIL: EVIL}, EVIL, EVIL, EVIL, (EVIL,), (EVIL,), why)
        for probe, cells_, why in ((EVIL, (cell,), ""), ("findings", (twice, twice), EVIL), ("gone", (Cell.of({"not": "there"}),), ""), ("gone", (), ""))
    )  # fmt: skip
    return run(
        results, findings=found, model=EVIL + MEGABYTE, profile=EVIL, notes=(EVIL, MEGABYTE), areas={"told": EVIL},
        promises={EVIL: EVIL, "told": MEGABYTE}, environment={EVIL: EVIL, "LONG": MEGABYTE}, installed={EVIL: EVIL},
        configuration={EVIL: [EVIL, None, {"long": MEGABYTE}]}, stack={**STACK, EVIL: EVIL}, started=EVIL, ftdoctor=EVIL,
        machine={**MACHINE, "processor": EVIL, "executable": MEGABYTE}, redaction=Redaction(True, {EVIL: 3}),
        selftest=(Trial(EVIL, EVIL, cell, "missed", EVIL, (EVIL,)), Trial(EVIL, CONTROL, cell, "clean", MEGABYTE)),
        skipped=(Skipped(EVIL, cell, MEGABYTE),), isolation=Isolation(EVIL, EVIL, False), planned=60,
    )  # fmt: skip


KINDS = {"healthy": healthy, "findings": findings, "interrupted": interrupted, "hostile": hostile, "many": many}


def make(kind):
    """The run of this name."""
    return KINDS[kind]()
