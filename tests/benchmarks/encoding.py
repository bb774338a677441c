"""What encoding and packing cost: rows per second against TRL's own preparation, and how full packed rows are.

    python tests/benchmarks/encoding.py

Prints ratios of one run, measured in turns; seconds differ from machine to machine.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from ftdoctor.bench import tokenizers
from ftdoctor.training import Encoder, PackingCounts, pack_rows

ROWS = 1000
ROUNDS = 3
EXAMPLES = 20_000
LENGTH = 2048


def main() -> None:
    """Encode the same conversations both ways, in turns; then pack lengths like those of chat data."""
    from datasets import Dataset, disable_progress_bars

    warnings.simplefilter("ignore")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokenizers.build("chatml", "128k", Path(folder))
        data = Dataset.from_list([{"messages": conversation(i)} for i in range(ROWS)])
        taken: dict[str, list[float]] = {"ours": [], "trl": []}
        for _ in range(ROUNDS):
            taken["ours"].append(timed(lambda: Encoder(tokenizer).rows(data)))
            taken["trl"].append(timed(lambda: by_trl(tokenizer, data, folder)))
    seconds = {way: statistics.median(values) for way, values in taken.items()}
    print(f"encoding, TRL      {ROWS / seconds['trl']:8.0f} rows/s")
    print(f"encoding, ftdoctor {ROWS / seconds['ours']:8.0f} rows/s")
    print(f"time of TRL's preparation: x{seconds['ours'] / seconds['trl']:.2f}")
    pack()


def pack() -> None:
    """Pack examples of log-normal lengths, as a whole and as a stream."""
    draw = random.Random(0)
    lengths = [min(LENGTH, max(8, int(draw.lognormvariate(5.5, 0.8)))) for _ in range(EXAMPLES)]
    rows = [{"input_ids": [1] * n, "labels": [1] * n} for n in lengths]
    for name, given in (("as a whole", rows), ("1000 at a time", iter(rows))):
        counts = PackingCounts()
        seconds = timed(lambda given=given, counts=counts: list(pack_rows(given, LENGTH, counts=counts)))  # type: ignore[misc]
        print(f"packing {name:15} {counts}, {EXAMPLES / seconds:.0f} examples/s")


def conversation(number: int) -> list[dict[str, str]]:
    """Two questions and answers of some 400 tokens."""
    draw = random.Random(number)
    words = ["the", "doctor", "listens", "first", "three", "questions", "Straße", "東京", "answer", "42"]

    def text(length: int) -> str:
        return " ".join(draw.choice(words) for _ in range(length))

    roles = ("user", "assistant") * 2
    return [{"role": role, "content": text(20 if role == "user" else 60)} for role in roles]


def by_trl(tokenizer: Any, data: Any, folder: str) -> Any:
    """Let SFTTrainer prepare the rows, scoring what the assistant writes."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    args = SFTConfig(output_dir=folder, max_length=None, assistant_only_loss=True, report_to=[], bf16=False)
    return SFTTrainer(LlamaForCausalLM(config), args=args, train_dataset=data, processing_class=tokenizer)


def timed(call: Any) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
