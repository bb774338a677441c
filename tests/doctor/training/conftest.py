"""A bench in any cell, for what the components are tried on."""

from __future__ import annotations

import pytest

from ftdoctor.bench import Bench
from ftdoctor.cells import Cell
from ftdoctor.settings import Settings


@pytest.fixture(scope="session")
def bench_cache(tmp_path_factory):
    """Tokenizers are trained once a session."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def make_bench(tmp_path, bench_cache):
    """Return a function that makes the bench of a cell: `make_bench(family="qwen3", adapter="none")`."""
    made = []

    def make(**cell):
        folder = tmp_path / f"bench-{len(made)}"
        folder.mkdir()
        made.append(Bench(Cell.of(cell), folder, Settings(cache=str(bench_cache))))
        return made[-1]

    return make


@pytest.fixture
def with_template(bench_cache):
    """Return a tokenizer in ChatML style with this chat template."""
    from ftdoctor.bench import tokenizers

    def make(template):
        made = tokenizers.build("chatml", "512", bench_cache)
        made.chat_template = template
        return made

    return make
