"""Every possible combination occurs; none that is impossible does."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.runner.covering import covering

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 3), st.data())
def test_every_possible_combination_occurs_and_no_impossible_one(sizes, strength, data):
    """Whatever the axes, the strength and the exclusions."""
    values = {f"a{i}": [f"{i}.{j}" for j in range(size)] for i, size in enumerate(sizes)}
    pairs = [
        dict(zip(axes, chosen, strict=True))
        for axes in itertools.combinations(values, min(2, len(values)))
        for chosen in itertools.product(*(values[a] for a in axes))
    ]
    excluded = data.draw(st.lists(st.sampled_from(pairs), max_size=2))

    def possible(row):
        return not any(all(row.get(a) == v for a, v in entry.items()) for entry in excluded)

    every = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    rows = list(covering(values, strength, possible))
    size = min(strength, len(values))
    wanted = {c for row in every if possible(row) for c in itertools.combinations(row.items(), size)}
    seen = {c for row in rows for c in itertools.combinations(row.items(), size)}

    assert seen == wanted
    assert all(possible(row) for row in rows)
    assert len({tuple(row.items()) for row in rows}) == len(rows)


def test_it_takes_far_fewer_rows_than_the_product():
    """Seven axes of three values: 2187 cells, of which a good pairwise design needs about 15."""
    values = {f"a{i}": ["x", "y", "z"] for i in range(7)}

    assert len(list(covering(values, 2, lambda _: True))) <= 22
