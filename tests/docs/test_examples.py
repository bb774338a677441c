"""The examples of the components' pages run as they stand there, beside a tiny model and two data files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "predictions.md", *sorted(DOCS.glob("training/*.md")), *sorted(DOCS.glob("predictions/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny llama in float32 with the ChatML template and 512 tokens."""
    import torch

    from ftdoctor.bench import Bench
    from ftdoctor.bench import tokenizers as bench_tokenizers
    from ftdoctor.cells import Cell
    from ftdoctor.settings import Settings

    torch.manual_seed(0)
    folder, cache = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("cache")
    bench = Bench(Cell.of({"family": "llama"}), folder, Settings(cache=str(cache)))
    tokenizer = bench_tokenizers.build("chatml", "512", cache)
    model = bench.model()
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    return bench.save(model, tokenizer)


@pytest.fixture
def beside(tmp_path, monkeypatch, checkpoint):
    """A folder with `model`, `data.jsonl` and `earlier.jsonl`, and the process in it."""
    shutil.copytree(checkpoint, tmp_path / "model")
    for name, first in (("data", 0), ("earlier", 100)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What is {n} plus one?"},
                    {"role": "assistant", "content": f"It is {n + 1}."},
                ]
            }
            for n in range(first, first + 8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_examples_of_a_page_run(page, beside):
    """In order, in one namespace."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    namespace = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)

    assert blocks
