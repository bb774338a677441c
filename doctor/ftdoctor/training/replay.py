"""Replay: a share of earlier examples mixed into new data, so that what was learned before is not forgotten.

Nothing is lost and nothing comes twice: each new example stands in each pass exactly once, no earlier one stands in a
pass twice, and none is used a second time before all were used once, over passes and over files (`Cursor`). What is
drawn depends on the seed alone: not on the process, the platform, the hash seed or the version of Python.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

from ftdoctor.errors import TrainingError

NEW = "new"
"""The source of new examples in a plan."""
EARLIER = "earlier"
"""The source of earlier examples, where they are given without names."""


@runtime_checkable
class Indexable(Protocol):
    """Rows with a number: a list, a tuple, a `datasets.Dataset`, a map-style dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Place(NamedTuple):
    """Where an example comes from."""

    source: str
    """`new`, `earlier`, or the name of one of several earlier sources."""
    row: int
    """Its row in that source, from 0."""


@dataclass(frozen=True)
class Cursor:
    """How far the walk through the earlier examples has come; kept from one file to the next.

    It holds as long as a source keeps its name and its rows; sources may come and go between files.
    """

    round: int = 0
    """How often all of them have been used."""
    used: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Source to its rows that were used in this round, rising."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {"round": self.round, "used": {name: list(rows) for name, rows in self.used.items()}}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Cursor:
        """Return the cursor that `as_dict` has written.

        Raises:
            TrainingError: the data is no cursor.
        """
        try:
            used = {str(name): tuple(sorted({int(i) for i in rows})) for name, rows in data["used"].items()}
            return cls(round=int(data["round"]), used=used)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"This is no replay cursor: {json.dumps(data, default=repr)[:80]}; begin without one."
            ) from error


def replayed(new: int, share: float) -> int:
    """Return how many earlier examples make up this share of the whole when they join `new` new ones.

    Raises:
        TrainingError: the share is not at least 0 and below 1.
    """
    if not 0 <= share < 1:
        raise TrainingError(f"A replay share of {share!r} is not possible; it must be at least 0 and below 1.")
    return math.floor(new * (share / (1 - share)) + 0.5)


def draw(sizes: Mapping[str, int], wanted: int, cursor: Cursor, seed: int) -> tuple[list[Place], Cursor]:
    """Draw earlier examples, each at most once, going on where the cursor stands.

    Args:
        sizes: name of each earlier source to its number of rows.
        wanted: how many to draw; all of them where there are fewer.
        cursor: how far earlier draws have come.
        seed: the order depends on it, on the round and on the names of the sources.

    Returns:
        The places in the order in which they are drawn (a shorter draw is the beginning of a longer one), and the
        cursor after it.
    """
    wanted = min(wanted, sum(sizes.values()))
    absent = {name: set(rows) for name, rows in cursor.used.items() if name not in sizes}
    used = {name: {row for row in cursor.used.get(name, ()) if row < size} for name, size in sizes.items()}
    drawn = _first(sizes, used, wanted, cursor.round, seed)
    for place in drawn:
        used[place.source].add(place.row)
    at = cursor.round
    if len(drawn) < wanted:  # this round is through: the next one begins with those that this draw does not hold yet
        at += 1
        more = _first(sizes, _by_source(drawn, sizes), wanted - len(drawn), at, seed)
        used, absent = _by_source(more, sizes), {}
        drawn += more
    return drawn, Cursor(at, {name: tuple(sorted(rows)) for name, rows in (absent | used).items() if rows})


def _first(sizes: Mapping[str, int], without: Mapping[str, set[int]], wanted: int, at: int, seed: int) -> list[Place]:
    """Return the first free places in the order of a round."""

    def ranked() -> Iterator[tuple[float, str, int]]:
        for name, size in sizes.items():
            # random() is the one method whose sequence is promised for ever; a text as seed goes through SHA-512.
            generator = random.Random(f"ftdoctor replay {seed} {at} {name}")  # noqa: S311 - nothing secret
            ranks = [generator.random() for _ in range(size)]
            taken = without[name]
            yield from ((rank, name, row) for row, rank in enumerate(ranks) if row not in taken)

    few = wanted < sum(sizes.values()) // 8  # a heap is the faster way to few of many
    first = heapq.nsmallest(wanted, ranked()) if few else sorted(ranked())[:wanted]
    return [Place(name, row) for _, name, row in first]


def _by_source(places: Iterable[Place], sizes: Mapping[str, int]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {name: set() for name in sizes}
    for place in places:
        found[place.source].add(place.row)
    return found


class Mixed:
    """New and earlier examples in the order in which they are trained on: a map-style dataset.

    Attributes:
        plan: the place of each example; `len(mixed)` of them.
        share: the share of earlier examples that was reached; below the one asked for where there were too few.
        cursor: where the next file's replay goes on.
    """

    def __init__(
        self, new: Indexable, earlier: Mapping[str, Indexable], plan: tuple[Place, ...], cursor: Cursor, key: str
    ) -> None:
        self._sources = {**earlier, NEW: new}
        self._key = key
        self.plan = plan
        self.cursor = cursor

    @property
    def share(self) -> float:
        """Return earlier examples / all examples."""
        return sum(place.source != NEW for place in self.plan) / len(self.plan) if self.plan else 0.0

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Any:
        place = self.plan[index]
        return self._sources[place.source][place.row]

    def __iter__(self) -> Walk:
        return Walk(self, self._key)


class Walk:
    """One walk through a mix, which can be saved between any two examples and gone on with elsewhere."""

    def __init__(self, mixed: Mixed, key: str) -> None:
        self._mixed, self._key, self._position = mixed, key, 0

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> Any:
        if self._position >= len(self._mixed):
            raise StopIteration
        example = self._mixed[self._position]
        self._position += 1
        return example

    def state_dict(self) -> dict[str, Any]:
        """Return what a later walk needs to go on with the next example; JSON can hold it."""
        return {"mix": self._key, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a walk through the same mix stopped.

        Raises:
            TrainingError: the state is that of another mix.
        """
        _refuse_other(state, self._key)
        self._position = int(state["position"])


class MixedStream:
    """New examples of a stream, in its order, with earlier ones put between them; each `iter` reads it again."""

    def __init__(
        self, new: Iterable[Any], earlier: Mapping[str, Indexable], share: float, cursor: Cursor, seed: int, key: str
    ) -> None:
        self._new, self._earlier, self._share = new, earlier, share
        self._start, self._seed, self._key = cursor, seed, key
        self._sizes = {name: len(rows) for name, rows in earlier.items()}
        self._order, _ = draw(self._sizes, sum(self._sizes.values()), cursor, seed)

    def __iter__(self) -> StreamWalk:
        return StreamWalk(self, self._key)


class StreamWalk:
    """One walk through a mixed stream, which can be saved between any two examples and gone on with elsewhere."""

    def __init__(self, mixed: MixedStream, key: str) -> None:
        self._mixed, self._key = mixed, key
        self._source = iter(mixed._new)
        self._new = self._earlier = 0

    def __iter__(self) -> StreamWalk:
        return self

    def __next__(self) -> Any:
        mixed = self._mixed
        due = min(replayed(self._new, mixed._share), len(mixed._order))
        if self._earlier < due:
            place = mixed._order[self._earlier]
            self._earlier += 1
            return mixed._earlier[place.source][place.row]
        example = next(self._source)
        self._new += 1
        return example

    @property
    def share(self) -> float:
        """Return the share of earlier examples up to now."""
        return self._earlier / (self._new + self._earlier) if self._new else 0.0

    @property
    def cursor(self) -> Cursor:
        """Return where the next file's replay goes on if this walk ends here."""
        return draw(self._mixed._sizes, self._earlier, self._mixed._start, self._mixed._seed)[1]

    def state_dict(self) -> dict[str, Any]:
        """Return what a later walk needs to go on with the next example; JSON can hold it."""
        return {"mix": self._key, "new": self._new, "earlier": self._earlier}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a walk stopped; the stream is read from its start, up to the place where that walk stood.

        Raises:
            TrainingError: the state is that of another mix, or the stream ends before that place.
        """
        _refuse_other(state, self._key)
        self._source = iter(self._mixed._new)
        for at in range(int(state["new"])):
            if next(self._source, state) is state:
                raise TrainingError(
                    f"The stream of new examples ends after {at}, but {state['new']} of it were trained on; give the "
                    "same stream again."
                )
        self._new, self._earlier = int(state["new"]), int(state["earlier"])


@overload
def mix(
    new: Indexable,
    earlier: Indexable | Mapping[str, Indexable],
    share: float = ...,
    seed: int = ...,
    *,
    cursor: Cursor | None = ...,
    passes: int = ...,
) -> Mixed: ...


@overload
def mix(
    new: Iterable[Any],
    earlier: Indexable | Mapping[str, Indexable],
    share: float = ...,
    seed: int = ...,
    *,
    cursor: Cursor | None = ...,
    passes: int = ...,
) -> MixedStream: ...


def mix(
    new: Any,
    earlier: Indexable | Mapping[str, Indexable],
    share: float = 0.2,
    seed: int = 0,
    *,
    cursor: Cursor | None = None,
    passes: int = 1,
) -> Mixed | MixedStream:
    """Mix a share of earlier examples into new ones.

    Args:
        new: rows with numbers (list, `datasets.Dataset`), which are shuffled, or a stream (any iterable, such as
            a `datasets.IterableDataset`), which keeps its order.
        earlier: rows with numbers, or several of them by name, such as one a file.
        share: of the whole, not of the new ones: with 0.2 every fifth example is an earlier one, evenly placed.
        seed: of the order and of what is drawn.
        cursor: where the replay of the last file ended (`Mixed.cursor`, `StreamWalk.cursor`); from the beginning where
            it is None.
        passes: how often the new examples are gone through, each time in another order and with other earlier ones;
            of a stream, once.

    Returns:
        A map-style dataset, or for a stream an iterable; both give examples as their sources hold them.

    Raises:
        TrainingError: the share, the passes or a source's name is none that can be used.
    """
    sources: Mapping[str, Indexable] = earlier if isinstance(earlier, Mapping) else {EARLIER: earlier}
    if NEW in sources:
        raise TrainingError(f"An earlier source cannot be called {NEW!r}; give it another name.")
    replayed(0, share)
    start = cursor or Cursor()
    sizes = {name: len(rows) for name, rows in sources.items()}
    settings: dict[str, Any] = {"sizes": sizes, "share": share, "seed": seed, "cursor": start.as_dict()}
    if not isinstance(new, Indexable):
        if passes != 1:
            raise TrainingError(f"A stream is gone through once, not {passes} times; call mix again for each pass.")
        return MixedStream(new, sources, share, start, seed, _digest(settings))
    if passes < 1:
        raise TrainingError(f"{passes} passes are not possible; there must be at least 1.")
    plan: list[Place] = []
    at = start
    for number in range(passes):
        drawn, at = draw(sizes, replayed(len(new), share), at, seed)
        plan += _placed(_first({NEW: len(new)}, {NEW: set()}, len(new), number, seed), drawn)
    return Mixed(new, sources, tuple(plan), at, _digest({**settings, "new": len(new), "passes": passes}))


def _placed(new: list[Place], earlier: list[Place]) -> Iterator[Place]:
    """Put the earlier places between the new ones, as evenly as whole numbers allow."""
    done = 0
    for count, place in enumerate(new, start=1):
        yield place
        due = (2 * count * len(earlier) + len(new)) // (2 * len(new))
        yield from earlier[done:due]
        done = due


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_other(state: Mapping[str, Any], key: str) -> None:
    if state.get("mix") != key:
        raise TrainingError(
            "This state was saved from another mix; go on with the same examples, share, seed, passes and cursor."
        )
