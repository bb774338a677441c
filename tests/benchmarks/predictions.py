"""What batches save: sixteen predictions together against the same one by one, with the same tokens.

    python tests/benchmarks/predictions.py

Prints ratios of one run, for models of several sizes in float32 and bfloat16, and for bfloat16 how many predictions
are the same. In float32 all must be.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from ftdoctor.prediction import GenerationSettings, PredictionGenerator

SAMPLES, NEW_TOKENS, REPEATS = 16, 32, 3
TARGET = 4.0
SIZES = {"0.5 M": (64, 2), "4 M": (256, 4), "34 M": (512, 8)}
"""Hidden size and layers."""
LARGE = 512
"""One by one in bfloat16 takes minutes from here on, on a CPU."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Print a line for each model."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.manual_seed(0)
    prompts = [torch.randint(4, 8000, (8 + 5 * (i % 7),)).tolist() for i in range(SAMPLES)]
    slowest, wrong = float("inf"), 0
    for name, (hidden, layers) in SIZES.items():
        for dtype in (torch.float32, torch.bfloat16) if hidden < LARGE else (torch.float32,):
            ratio, same = compared(model(hidden, layers, dtype), prompts)
            kind = str(dtype).removeprefix("torch.")
            if dtype == torch.float32:
                slowest, wrong = min(slowest, ratio), wrong + SAMPLES - same
            print(
                f"{name:6} {kind:8}  {ratio:5.1f} times as fast, {same} of {SAMPLES} predictions the same", flush=True
            )
    print(f"float32: at least {slowest:.1f} times as fast (target: {TARGET:g}), {wrong} predictions differ (target: 0)")
    sys.exit(0 if slowest >= TARGET and not wrong else 1)


def model(hidden: int, layers: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model with random weights that are large enough to say something."""
    config = LlamaConfig(
        vocab_size=8192, hidden_size=hidden, intermediate_size=hidden * 3, num_hidden_layers=layers,
        num_attention_heads=8, eos_token_id=None, bos_token_id=None, pad_token_id=0, initializer_range=0.05,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(DEVICE, dtype).train()


def compared(subject: LlamaForCausalLM, prompts: list[list[int]]) -> tuple[float, int]:
    """Return how many times faster a batch is, and how many of its predictions are those of one by one."""
    seconds, tokens = {}, {}
    for size in (1, SAMPLES):
        generator = PredictionGenerator(tokenizer(), GenerationSettings(max_new_tokens=NEW_TOKENS, batch_size=size))
        generator.generate(subject, prompts[:1])
        best = float("inf")
        for _ in range(REPEATS):
            begun = time.perf_counter()
            made = generator.generate(subject, prompts)
            best = min(best, time.perf_counter() - begun)
        seconds[size], tokens[size] = best, [p.token_ids for p in made]
    same = sum(a == b for a, b in zip(tokens[1], tokens[SAMPLES], strict=True))
    return seconds[1] / seconds[SAMPLES], same


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that decodes ids."""
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(8192)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))


if __name__ == "__main__":
    main()
