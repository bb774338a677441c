"""Axes and cells."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftdoctor_matrix as matrix
from ftdoctor.cells import Cell, parse_selection
from ftdoctor.errors import UsageError

names = st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.dictionaries(names, names))
def test_a_cell_is_its_values_whatever_their_order(values):
    """Equal cells are equal keys."""
    backwards = dict(reversed(values.items()))

    assert Cell.of(values) == Cell.of(backwards)
    assert hash(Cell.of(values)) == hash(Cell.of(backwards))
    assert Cell.of(values).asdict() == values


def test_a_cell_reads_as_a_person_would_type_it():
    """Axis=value, sorted by axis."""
    assert str(Cell.of({"vocabulary": "128k", "family": "llama"})) == "family=llama vocabulary=128k"


def test_a_cell_matches_only_on_axes_that_it_has():
    """An axis that a cell does not have decides nothing."""
    cell = Cell.of({"family": "llama"})

    assert cell.matches({"family": ["llama", "phi3"], "vocabulary": ["128k"]})
    assert not cell.matches({"family": ["phi3"]})


def test_a_selection_adds_up():
    """Several values by comma or by repeating the option."""
    chosen = parse_selection(["family=llama,phi3", "family=qwen3", "vocabulary=128k"], matrix.axes())

    assert chosen == {"family": ("llama", "phi3", "qwen3"), "vocabulary": ("128k",)}


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("family", "is not of the form axis=value"),
        ("famly=llama", "did you mean 'family'"),
        ("family=lama", "has no value 'lama'; it has llama, qwen3"),
    ],
)
def test_a_mistake_is_answered_with_the_way_out(argument, sentence):
    """The form, the axis or the value."""
    with pytest.raises(UsageError, match=sentence):
        parse_selection([argument], matrix.axes())
