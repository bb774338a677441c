"""Replay loses nothing and repeats nothing: in a pass, over passes, over files, over a stop and over processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.errors import TrainingError
from ftdoctor.training.replay import Cursor, Mixed, MixedStream, Place, draw, mix, replayed

NEW = [f"new {i}" for i in range(40)]
EARLIER = [f"old {i}" for i in range(25)]

sizes = st.integers(0, 40)
shares = st.floats(0, 0.9)
seeds = st.integers(0, 2**32)


@given(sizes, sizes, shares, seeds)
def test_every_new_example_comes_once_and_no_earlier_one_twice(new, earlier, share, seed):
    """Whatever the numbers."""
    mixed = mix(list(range(new)), [-1 - i for i in range(earlier)], share, seed)
    counted = Counter(mixed)

    assert all(counted[i] == 1 for i in range(new))
    assert max(counted.values(), default=1) == 1
    assert len(mixed) - new == min(earlier, replayed(new, share))


@given(st.integers(1, 200), shares)
def test_the_share_is_one_of_the_whole(new, share):
    """To half an example, the nearest that whole numbers allow."""
    mixed = mix(list(range(new)), range(10_000), share)

    assert abs(sum(p.source == "earlier" for p in mixed.plan) - share * len(mixed)) <= 0.5
    assert mixed.share == sum(p.source == "earlier" for p in mixed.plan) / len(mixed)


def test_twenty_per_cent_are_ten_of_fifty():
    """Not eight, which would be a fifth of the new ones."""
    mixed = mix(NEW, EARLIER, 0.2)

    assert (len(mixed), mixed.share) == (50, 0.2)


def test_too_few_earlier_ones_come_once_each_and_the_share_reached_is_told():
    """Rather than some of them twice."""
    mixed = mix(NEW, EARLIER[:3], 0.2)

    assert Counter(p.source for p in mixed.plan) == {"new": 40, "earlier": 3}
    assert mixed.share == 3 / 43


@pytest.mark.parametrize(("earlier", "share"), [(EARLIER, 0.0), ([], 0.2)])
def test_without_earlier_ones_the_new_ones_remain(earlier, share):
    """Shuffled."""
    mixed = mix(NEW, earlier, share)

    assert sorted(mixed) == sorted(NEW)
    assert list(mixed) != NEW
    assert mixed.share == 0.0


def test_every_stretch_has_its_share():
    """Evenly placed: each five in a row hold one earlier example."""
    sources = [p.source for p in mix(NEW, EARLIER, 0.2).plan]

    assert {sources[i : i + 5].count("earlier") for i in range(0, 50, 5)} == {1}


def test_both_kinds_are_shuffled_by_the_seed():
    """Another seed is another order, the same seed the same."""
    first, again, other = mix(NEW, EARLIER, seed=1), mix(NEW, EARLIER, seed=1), mix(NEW, EARLIER, seed=2)

    assert first.plan == again.plan
    assert first.plan != other.plan
    assert {p for p in first.plan if p.source == "earlier"} != {p for p in other.plan if p.source == "earlier"}
    assert [p.row for p in first.plan if p.source == "new"] != sorted(range(40))


EXPECTED = [("new", 3), ("new", 5), ("b", 2), ("new", 1), ("new", 2), ("a", 1), ("new", 7), ("new", 4), ("new", 0), ("a", 2), ("new", 6)]  # fmt: skip


def test_the_order_is_the_same_in_every_process():
    """Whatever the hash seed; and the one that is written here, whatever the version of Python."""
    program = (
        "from ftdoctor.training.replay import mix\n"
        "print([tuple(p) for p in mix(range(8), {'b': range(3), 'a': range(3)}, 0.3, seed=7).plan])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert told == {str(EXPECTED)}


def test_the_order_of_the_sources_does_not_matter():
    """Only their names do: a folder is listed in any order."""
    one = mix(NEW, {"a": EARLIER[:9], "b": EARLIER[9:]}, 0.4)
    other = mix(NEW, {"b": EARLIER[9:], "a": EARLIER[:9]}, 0.4)

    assert one.plan == other.plan


def test_passes_each_have_all_new_ones_in_another_order():
    """And go on through the earlier ones rather than repeating those of the first pass."""
    mixed = mix(NEW, EARLIER, 0.2, passes=2)
    first, second = mixed.plan[:50], mixed.plan[50:]

    assert {p for p in first if p.source == "new"} == {p for p in second if p.source == "new"}
    assert [p for p in first if p.source == "new"] != [p for p in second if p.source == "new"]
    assert len({p for p in mixed.plan if p.source == "earlier"}) == 20


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 10), seeds)
def test_none_is_used_a_second_time_before_all_were_used_once(wanted, size, seed):
    """Over any number of draws, with the cursor in JSON between them."""
    counted, cursor = Counter(dict.fromkeys(range(size), 0)), Cursor()
    for number in wanted:
        drawn, cursor = draw({"earlier": size}, number, Cursor.of(json.loads(json.dumps(cursor.as_dict()))), seed)
        rows = [place.row for place in drawn]
        assert len(set(rows)) == len(rows) == min(number, size)
        for row in rows:
            counted[row] += 1
            assert max(counted.values()) - min(counted.values()) <= 1


@given(sizes, st.integers(0, 40), st.integers(0, 40), seeds)
def test_a_shorter_draw_is_the_beginning_of_a_longer_one(size, few, used, seed):
    """So that a stream, whose length nobody knows, draws what a list does."""
    _, cursor = draw({"a": size, "b": 5}, used, Cursor(), seed)
    longer, _ = draw({"a": size, "b": 5}, 45, cursor, seed)
    shorter, _ = draw({"a": size, "b": 5}, few, cursor, seed)

    assert shorter == longer[:few]


def test_a_new_file_joins_the_round_and_a_removed_one_leaves_it():
    """The walk goes on through the others."""
    first, cursor = draw({"a": 4}, 3, Cursor(), 0)
    then, cursor = draw({"a": 4, "b": 3}, 4, cursor, 0)
    last, cursor = draw({"b": 3, "c": 2}, 2, cursor, 0)

    assert {*first, *then} == {*(Place("a", i) for i in range(4)), *(Place("b", i) for i in range(3))}
    assert set(last) == {Place("c", 0), Place("c", 1)}
    assert cursor.round == 0


def test_what_an_absent_source_has_given_is_remembered():
    """Until the round is over: a file that is not replayed beside itself comes back with the next."""
    first, cursor = draw({"a": 4, "b": 4}, 6, Cursor(), 0)
    _, cursor = draw({}, 3, cursor, 0)
    _, cursor = draw({"c": 2}, 1, cursor, 0)
    last, cursor = draw({"a": 4, "b": 4, "c": 2}, 3, cursor, 0)
    _, later = draw({"b": 4}, 1, cursor, 0)

    assert not {*first} & {*last}
    assert cursor.round == 0
    assert (later.round, list(later.used)) == (1, ["b"])


def test_the_cursor_carries_the_walk_from_file_to_file():
    """Three files of ten new examples draw nine different earlier ones."""
    cursor, seen = None, []
    for _ in range(3):
        mixed = mix(NEW[:10], EARLIER[:9], 0.2, cursor=cursor)
        cursor = mixed.cursor
        seen += [p.row for p in mixed.plan if p.source == "earlier"]

    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("stop", [0, 1, 7, 49, 50])
def test_a_walk_goes_on_exactly_where_it_stopped(stop):
    """The state is plain JSON."""
    walk = iter(mix(NEW, EARLIER))
    begun = [next(walk) for _ in range(stop)]
    state = json.loads(json.dumps(walk.state_dict()))
    later = iter(mix(NEW, EARLIER))
    later.load_state_dict(state)

    assert begun + list(later) == list(mix(NEW, EARLIER))


@pytest.mark.parametrize("stop", [0, 1, 7, 49, 50])
def test_a_walk_through_a_stream_goes_on_exactly_where_it_stopped(stop):
    """Reading it again, and giving nothing again."""
    walk = iter(mix(iter(NEW), EARLIER))
    begun = [next(walk) for _ in range(stop)]
    state = json.loads(json.dumps(walk.state_dict()))
    later = iter(mix(iter(NEW), EARLIER))
    later.load_state_dict(state)

    assert begun + list(later) == list(mix(iter(NEW), EARLIER))


@pytest.mark.parametrize("change", [{"share": 0.3}, {"seed": 1}, {"passes": 2}, {"cursor": Cursor(1)}])
def test_the_state_of_another_mix_is_refused(change):
    """It would lose some examples and repeat others."""
    state = iter(mix(NEW, EARLIER)).state_dict()

    with pytest.raises(TrainingError, match="another mix"):
        iter(mix(NEW, EARLIER, **change)).load_state_dict(state)
    with pytest.raises(TrainingError, match="another mix"):
        iter(mix(NEW[1:], EARLIER)).load_state_dict(state)
    with pytest.raises(TrainingError, match="another mix"):
        iter(mix(iter(NEW), EARLIER)).load_state_dict(state)


def test_a_stream_that_has_become_shorter_is_refused():
    """What was trained on is no longer there."""
    walk = iter(mix(iter(NEW), EARLIER))
    for _ in range(20):
        next(walk)
    later = iter(mix(iter(NEW[:5]), EARLIER))

    with pytest.raises(TrainingError, match="ends after 5, but 16 of it were trained on"):
        later.load_state_dict(walk.state_dict())


@given(sizes, sizes, st.floats(0, 0.8), seeds)
def test_a_stream_gives_what_a_list_gives(new, earlier, share, seed):
    """The same examples, the new ones in their own order, and the same cursor."""
    walk = iter(mix((i for i in range(new)), [-1 - i for i in range(earlier)], share, seed))
    given_out = list(walk)
    listed = mix(list(range(new)), [-1 - i for i in range(earlier)], share, seed)

    assert [x for x in given_out if x >= 0] == list(range(new))
    assert sorted(given_out) == sorted(listed)
    assert [x for x in given_out if x < 0] == [x for x in listed if x < 0]
    assert walk.cursor == listed.cursor
    assert walk.share == listed.share


def test_a_stream_has_its_share_from_the_beginning():
    """Nobody knows how long it is."""
    walk = iter(mix(iter(NEW), EARLIER))
    first = [next(walk) for _ in range(20)]

    assert sum(x.startswith("old") for x in first) == 4
    assert walk.share == 0.2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"share": 1.0}, "A replay share of 1.0 is not possible; it must be at least 0 and below 1."),
        ({"share": -0.1}, "A replay share of -0.1 is not possible; it must be at least 0 and below 1."),
        ({"share": float("nan")}, "A replay share of nan is not possible; it must be at least 0 and below 1."),
        ({"passes": 0}, "0 passes are not possible; there must be at least 1."),
        ({"earlier": {"new": EARLIER}}, "An earlier source cannot be called 'new'; give it another name."),
        ({"new": iter(NEW), "passes": 2}, "A stream is gone through once, not 2 times; call mix again for each pass."),
    ],
)
def test_what_is_not_possible_is_said(arguments, sentence):
    """In one sentence."""
    with pytest.raises(TrainingError) as caught:
        mix(**{"new": NEW, "earlier": EARLIER, **arguments})

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "data", [{}, {"round": "x", "used": {}}, {"round": 0, "used": [1]}, {"round": 0, "used": {"a": 3}}, []]
)
def test_what_is_no_cursor_is_refused(data):
    """Rather than beginning anew in silence."""
    with pytest.raises(TrainingError, match="This is no replay cursor"):
        Cursor.of(data)


@pytest.mark.stack
def test_datasets_are_mixed_as_lists_are():
    """Rows of a Dataset, whole; a stream of datasets is a stream, shuffled as the user has it."""
    from datasets import Dataset

    new, earlier = Dataset.from_dict({"text": NEW}), Dataset.from_dict({"text": EARLIER})
    mixed = mix(new, {"a.jsonl": earlier})
    stream = new.to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=10)
    streamed = mix(stream, earlier)
    walk = iter(streamed)
    begun = [next(walk) for _ in range(13)]
    later = iter(mix(stream, earlier))
    later.load_state_dict(walk.state_dict())

    assert isinstance(mixed, Mixed)
    assert [row["text"] for row in mixed] == list(mix(NEW, {"a.jsonl": EARLIER}))
    assert isinstance(streamed, MixedStream)
    assert begun + list(later) == list(mix(stream, earlier))
    assert sorted(row["text"] for row in begun + list(mix(stream, earlier))[13:]) == sorted(mix(NEW, EARLIER))


@pytest.mark.stack
def test_a_data_loader_delivers_a_mix_once(torch_seeded):
    """Through a sampler of its own and in its own order."""
    from torch.utils.data import DataLoader

    mixed = mix(NEW, EARLIER)
    in_order = [x for batch in DataLoader(mixed, batch_size=4) for x in batch]
    shuffled = [x for batch in DataLoader(mixed, batch_size=4, shuffle=True) for x in batch]

    assert in_order == list(mixed)
    assert sorted(shuffled) == sorted(mixed)


@pytest.fixture
def torch_seeded():
    """The order that a sampler draws."""
    import torch

    torch.manual_seed(0)
