"""On which factors a failure depends; where the cells cannot tell, none is named."""

from __future__ import annotations

import itertools

from ftdoctor.cells import Cell
from ftdoctor.diagnosis.dependence import dependence

AXES = {"family": ("llama", "qwen3", "phi3"), "vocabulary": ("512", "128k"), "dtype": ("float32", "bfloat16")}
CELLS = [Cell.of(dict(zip(AXES, values, strict=True))) for values in itertools.product(*AXES.values())]


def found(fails, cells=CELLS):
    return dependence([c for c in cells if fails(c)], [c for c in cells if not fails(c)])


def test_one_factor_is_named_with_where_it_passes_and_what_it_is_not():
    """The story of the tokenizer."""
    answer = found(lambda c: c["vocabulary"] == "128k")

    assert answer.on == {"vocabulary": "128k"}
    assert answer.words == "vocabulary=128k (passes at 512); not on dtype or family"


def test_several_values_of_one_factor_are_joined():
    """Two of three families."""
    assert found(lambda c: c["family"] != "phi3").on == {"family": "llama|qwen3"}


def test_two_factors_together():
    """Only where both are."""
    answer = found(lambda c: c["vocabulary"] == "128k" and c["dtype"] == "bfloat16")

    assert answer.on == {"dtype": "bfloat16", "vocabulary": "128k"}
    assert answer.words.endswith("not on family")


def test_a_factor_whose_other_values_were_not_seen_to_fail_is_named_as_such():
    """It may matter too; the cells that ran do not say that it does not."""
    rows = [("1", "1", True), ("1", "2", True), ("2", "1", False), ("2", "2", False), ("2", "3", False)]
    cells = {Cell.of({"a": a, "b": b}): fails for a, b, fails in rows}
    answer = dependence([c for c, fails in cells.items() if fails], [c for c, fails in cells.items() if not fails])

    assert answer.words == "a=1 (passes at 2); seen only at b=1|2"


def test_everywhere_is_said():
    """No factor is to blame when all cells fail."""
    answer = found(lambda c: True)

    assert (answer.on, answer.words) == ({}, "fails in all 12 examined cells")
    assert found(lambda c: True, CELLS[:1]).words == "unknown: no other cell was examined"


def test_two_explanations_that_fit_equally_well_are_both_named_and_neither_is_chosen():
    """A wrong dependence is worse than none."""
    cells = [Cell.of({"a": "1", "b": "1"}), Cell.of({"a": "2", "b": "2"})]
    answer = found(lambda c: c["a"] == "2", cells)

    assert answer.on == {}
    assert answer.words == "the cells that ran cannot tell whether it is a=2 or b=2"


def test_two_factors_that_fit_by_chance_do_not_hide_three_that_fit_too():
    """Few cells leave room for both, so neither is chosen."""
    true = {"adapter": "head", "dtype": "float32", "quantization": "nf4"}
    rows = [
        {**true, "family": "phi3"},
        {**true, "family": "phi3", "adapter": "lora"},
        {**true, "family": "llama", "dtype": "bfloat16"},
        {**true, "family": "llama", "quantization": "none"},
    ]
    answer = found(lambda c: all(c[a] == v for a, v in true.items()), [Cell.of(r) for r in rows])

    assert answer.on == {}
    assert answer.words == (
        "the cells that ran cannot tell whether it is adapter=head and family=phi3 "
        "or adapter=head and dtype=float32 and quantization=nf4"
    )


def test_a_failure_that_no_factor_explains_is_called_so():
    """One cell in the middle of twelve, contradicted by its neighbours on every side."""
    cells = [*CELLS, *CELLS]
    answer = dependence([cells[0]], cells)

    assert answer.on == {}
    assert answer.words == "fails in 1 of 25 cells, no factor explains it"


def test_a_probe_without_axes_depends_on_nothing():
    """There is nothing to compare."""
    assert dependence([Cell()], []).words == ""
