"""Rows as evidence: tokens as text, what is scored, and what should be."""

from __future__ import annotations

import pytest

from ftdoctor.bench import masks, rows
from ftdoctor.checks import Check

pytestmark = pytest.mark.stack


def of(bench, wanted):
    """The evidence of a row whose answer is scored."""
    sent = []
    tokenizer = bench.tokenizer()
    row = rows.encode(tokenizer, "Say hello.", "東京, hello!")
    masks.record(Check(sent.append), tokenizer, "a row", row["input_ids"], row["labels"], wanted)
    return sent[0]


def test_the_expected_tokens_are_those_of_the_text(make_bench):
    """Also where a character has several tokens; the end of turn belongs to the answer."""
    bench = make_bench(family="llama")
    mask = of(bench, [f"東京, hello!{bench.tokenizer().eos_token}"])

    assert mask.name == "a row"
    assert mask.expected == mask.scored
    assert any(mask.scored)
    assert not all(mask.scored)
    assert "!" in mask.tokens


def test_a_row_without_the_text_expects_nothing(make_bench):
    """It is not the row that was meant."""
    assert of(make_bench(family="llama"), ["something else"]).expected == ()
    assert of(make_bench(family="llama"), []).expected == ()


def test_white_space_around_a_run_may_be_scored_or_not(make_bench):
    """A template ends a turn with a line feed, which one trainer scores and another one does not; other text is told."""
    tokenizer = make_bench(family="qwen3").tokenizer()
    ids = tokenizer.encode("Say.\nhello\n!", add_special_tokens=False)
    sent = []
    for labels in ([-100] * len(ids), ids):
        masks.record(Check(sent.append), tokenizer, "a row", ids, labels, ["hello"])
    none, everything = (dict(zip(mask.tokens, mask.expected, strict=True)) for mask in sent)

    assert [none["\n"], none["!"], none["lo"]] == [False, False, True]
    assert [everything["\n"], everything["!"], everything["lo"]] == [True, False, True]
