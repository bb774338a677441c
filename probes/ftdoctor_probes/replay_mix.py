"""A trainer is given each new example once and the asked share of earlier ones, none twice, also after a stop.

Why: replayed examples keep a model from forgetting. Mixed by hand, a fifth is taken of the new examples rather than of
the whole, and drawn anew for each file, so that some come again and again and others never. Interleaved by
probability, the mix ends with whichever source is used up first: the tail of the new data is lost without a word.

Cure: `ftdoctor.training.mix`, with its cursor kept from file to file and its state saved with each checkpoint.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

NEW = tuple(f"new example {i}" for i in range(40))
EARLIER = tuple(f"earlier example {i}" for i in range(33))
SHARE = 0.2
FILES = 3
STOP = 17


@probe(area="components", needs=("transformers", "datasets"), axes=("trainer",))
def replay_mix(bench: Bench, check: Check) -> None:
    """Mix with ours, by hand and with the library; count what the trainer is given."""
    from ftdoctor.training import replay

    seed = bench.settings.seed
    others: dict[str, Any] = {"naive": _naive, "library": _library}
    trainer = _Trainer(bench)
    ours = Counter(trainer.given(list(replay.mix(NEW, EARLIER, SHARE, seed))))
    given = _each(others, lambda mixed: Counter(trainer.given(mixed(NEW, EARLIER, seed))))
    check.equal(
        "new examples not given once",
        _not_once(ours),
        [],
        why="each is data that the user wants learned",
        beside=_each(given, _not_once),
        owner=replay.mix,
    )
    check.at_most(
        "distance from the share of earlier examples",
        _distance(ours),
        0.5 / (len(NEW) / (1 - SHARE)),
        why="half an example: the nearest that whole numbers allow",
        beside=_each(given, _distance),
        owner=replay.mix,
    )
    check.equal(
        "repeated while others were never given, over three files",
        _over_files(replay, seed),
        0,
        why="three tens are fewer than the earlier examples that there are",
        beside=_each(others, lambda mixed: _repeated(mixed, seed)),
        owner=replay.mix,
    )
    check.equal(
        "lost or repeated where earlier examples are few",
        _wrong(replay.mix(NEW, EARLIER[:4], SHARE, seed)),
        0,
        why="all new ones and four earlier ones, once each",
        beside=_each(others, lambda mixed: _wrong(mixed(NEW, EARLIER[:4], seed))),
        owner=replay.mix,
    )
    check.equal(
        "lost or repeated by a stop",
        _stopped(replay, seed),
        0,
        why="what was given before and after the stop is what is given without one",
        beside={"naive": attempt(lambda: _restarted(seed)), "library": attempt(lambda: _interleaved_again(seed))},
        owner=replay.mix,
    )


def _each(ways: dict[str, Any], measure: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what is measured of each way, or the exception in which it ends."""
    return {way: attempt(functools.partial(measure, value)) for way, value in ways.items()}


class _Trainer:
    """The cell's trainer, asked what it would train on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._tokenizer = bench.tokenizer()
        self._model = bench.load()

    def given(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that come out of the trainer's own data loader in one epoch."""
        trainer = self._bench.trainer(self._model, self._tokenizer, train_dataset=self._rows(texts))
        known = {text: tuple(self._tokenizer.encode(text, add_special_tokens=False)) for text in {*texts}}
        out = []
        for batch in trainer.get_train_dataloader():
            for ids in batch["input_ids"].tolist():
                found = [text for text, wanted in known.items() if _holds(ids, wanted)]
                out.append(max(found, key=len))
        return out

    def _rows(self, texts: Sequence[str]) -> Any:
        from datasets import Dataset

        if self._bench.cell["trainer"] == "plain":
            return Dataset.from_list([self._bench.encode(self._tokenizer, "Repeat.", text) for text in texts])
        prompt = [{"role": "user", "content": "Repeat."}]
        return Dataset.from_list(
            [{"prompt": prompt, "completion": [{"role": "assistant", "content": t}]} for t in texts]
        )


def _holds(ids: list[int], wanted: tuple[int, ...]) -> bool:
    return any(tuple(ids[i : i + len(wanted)]) == wanted for i in range(len(ids) - len(wanted) + 1))


def _naive(new: Sequence[str], earlier: Sequence[str], seed: int) -> list[str]:
    """Return the mix that a script makes by hand: a fifth of the new ones, drawn anew for each file."""
    generator = random.Random(f"{seed} {new[0]}")  # noqa: S311 - nothing secret
    mixed = [*new, *generator.sample(list(earlier), int(len(new) * SHARE))]
    generator.shuffle(mixed)
    return mixed


def _library(new: Sequence[str], earlier: Sequence[str], seed: int) -> list[str]:
    """Return the mix of `interleave_datasets` as it is by default."""
    from datasets import Dataset, interleave_datasets

    sources = [Dataset.from_dict({"text": list(texts)}) for texts in (new, earlier)]
    return list(interleave_datasets(sources, probabilities=[1 - SHARE, SHARE], seed=seed)["text"])


def _not_once(given: Counter[str]) -> list[str]:
    return sorted(text for text in NEW if given[text] != 1)


def _distance(given: Counter[str]) -> float:
    """Return how far the share of earlier examples is from the one asked for."""
    return abs(sum(given[text] for text in EARLIER) / given.total() - SHARE)


def _files() -> list[list[str]]:
    return [[f"file {number}: {text}" for text in NEW] for number in range(FILES)]


def _over_files(replay: Any, seed: int) -> int:
    """Return how often one of ours came again although others had never come."""
    cursor, given = None, Counter[str]()
    for new in _files():
        mixed = replay.mix(new, EARLIER, SHARE, seed, cursor=cursor)
        cursor = mixed.cursor
        given.update(text for text in mixed if text in EARLIER)
    return given.total() - len(given)


def _repeated(way: Any, seed: int) -> int:
    given = Counter(text for new in _files() for text in way(new, EARLIER, seed) if text in EARLIER)
    return given.total() - len(given)


def _wrong(mixed: Any) -> int:
    """Return how many of the new and the four earlier examples did not come once."""
    given = Counter(mixed)
    return sum(abs(given[text] - 1) for text in (*NEW, *EARLIER[:4]))


def _stopped(replay: Any, seed: int) -> int:
    """Return the difference that a stop and a resume in another process would make to ours."""
    walk = iter(replay.mix(NEW, EARLIER, SHARE, seed))
    before = [next(walk) for _ in range(STOP)]
    later = iter(replay.mix(NEW, EARLIER, SHARE, seed))
    later.load_state_dict(walk.state_dict())
    return _differences([*before, *later], list(replay.mix(NEW, EARLIER, SHARE, seed)))


def _restarted(seed: int) -> int:
    """Return the same of a script that begins its file again."""
    whole = _naive(NEW, EARLIER, seed)
    return _differences([*whole[:STOP], *whole], whole)


def _interleaved_again(seed: int) -> int:
    """Return the same of the library's streams with their own state."""
    from datasets import Dataset, interleave_datasets

    def mixed() -> Any:
        sources = [Dataset.from_dict({"text": list(texts)}).to_iterable_dataset() for texts in (NEW, EARLIER)]
        return interleave_datasets(sources, probabilities=[1 - SHARE, SHARE], seed=seed)

    first, later = mixed(), mixed()
    rows = iter(first)
    before = [next(rows)["text"] for _ in range(STOP)]
    later.load_state_dict(first.state_dict())
    return _differences([*before, *(row["text"] for row in later)], [row["text"] for row in mixed()])


def _differences(given: list[str], wanted: list[str]) -> int:
    one, other = Counter(given), Counter(wanted)
    return (one - other).total() + (other - one).total()


@replay_mix.fault("one new example takes the place of another", catches=("new examples not given once",))
def one_lost(patch: Patch) -> None:
    """As where an index is taken modulo the wrong length."""
    from ftdoctor.training import replay

    def around(original: Any, new: Any, earlier: Any) -> Any:
        return original([*new[:-1], new[0]], earlier)

    patch.wrap(replay, "_placed", around)


@replay_mix.fault("the share is one of the new examples", catches=("distance from the share of earlier examples",))
def share_of_the_new(patch: Patch) -> None:
    """Eight of forty-eight rather than ten of fifty."""
    from ftdoctor.training import replay

    patch.replace(replay, "replayed", lambda new, share: round(new * share))


@replay_mix.fault("the cursor is forgotten", catches=("repeated while others were never given, over three files",))
def cursor_forgotten(patch: Patch) -> None:
    """Every file replays what the first one did."""
    from ftdoctor.training import replay

    def around(original: Any, sizes: Any, wanted: Any, cursor: Any, seed: Any) -> Any:
        return original(sizes, wanted, replay.Cursor(), seed)

    patch.wrap(replay, "draw", around)


@replay_mix.fault("too few earlier examples are repeated", catches=("lost or repeated where earlier examples are few",))
def few_repeated(patch: Patch) -> None:
    """Until the share is reached, whatever it does to what they say."""
    from ftdoctor.training import replay

    def around(original: Any, sizes: Any, wanted: Any, cursor: Any, seed: Any) -> Any:
        drawn, after = original(sizes, wanted, cursor, seed)
        return (drawn * wanted)[:wanted], after

    patch.wrap(replay, "draw", around)


@replay_mix.fault("the state is one example behind", catches=("lost or repeated by a stop",))
def state_behind(patch: Patch) -> None:
    """As where it is saved before the example is counted."""
    from ftdoctor.training import replay

    def around(original: Any, self: Any) -> Any:
        state = original(self)
        return {**state, "position": state["position"] - 1}

    patch.wrap(replay.Walk, "state_dict", around)
