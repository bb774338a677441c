"""Rows of predictions, judged against the truth and put together by job, sample and step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ftdoctor.wording import count, visible
from ftdoctor_reports.predictions.changes import exact, similarity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ftdoctor.prediction.rows import PredictionRow


@dataclass(frozen=True)
class Judged:
    """A prediction beside the truth and beside the one before it."""

    row: PredictionRow
    exact: bool | None
    """None where there is no truth or no prediction."""
    similarity: float | None
    """From 0 to 1 (`changes.similarity`); None also where the texts are too long to compare."""
    before: PredictionRow | None
    """The same sample at the last step before, at which it did not fail."""

    @property
    def failed(self) -> bool:
        """Say whether there is an error instead of a prediction."""
        return self.row.prediction is None

    @property
    def unchanged(self) -> bool:
        """Say whether the prediction is the one of the step before."""
        return self.before is not None and self.before.prediction == self.row.prediction


@dataclass(frozen=True)
class Step:
    """The predictions of one step, counted."""

    step: int
    epoch: float | None
    predictions: int
    failed: int
    judged: int
    """Those that have a truth and did not fail; the next two are about them."""
    exact: int
    similarity: float | None
    """Mean over those that could be compared; None where there is none."""

    @property
    def share(self) -> float | None:
        """Return the share of exact matches; None where nothing could be judged."""
        return self.exact / self.judged if self.judged else None


@dataclass(frozen=True)
class Job:
    """The predictions of one job, by sample and then by step."""

    name: str
    user: str
    samples: dict[int, list[Judged]]
    steps: list[Step]

    @property
    def usual(self) -> str:
        """Return how most predictions were made (`made`)."""
        ways = Counter(made(one.row) for history in self.samples.values() for one in history)
        return ways.most_common(1)[0][0]

    @property
    def failed(self) -> int:
        """Return how many predictions failed."""
        return sum(step.failed for step in self.steps)

    @property
    def lost(self) -> bool:
        """Say whether all predictions of the last step failed."""
        return self.steps[-1].failed == self.steps[-1].predictions

    def verdict(self) -> str:
        """Return the line that stands above everything else."""
        last = self.steps[-1]
        told = f"step {last.step}: "
        if self.lost:
            return told + f"all {count(last.predictions, 'prediction')} failed"
        if last.judged:
            told += f"{last.exact} of {last.judged} exact"
            told += f", mean similarity {last.similarity:.2f}" if last.similarity is not None else ""
        else:
            told += f"{count(last.predictions - last.failed, 'prediction')}, no ground truth to judge by"
        return told + (f", {last.failed} failed" if last.failed else "")

    def extent(self) -> str:
        """Return how much there is: `5 steps (10 to 50), 16 samples, 3 predictions failed`."""
        first, last = self.steps[0].step, self.steps[-1].step
        told = f"{count(len(self.steps), 'step')} ({first} to {last})" if first != last else f"step {first}"
        told += f", {count(len(self.samples), 'sample')}"
        return told + (f", {count(self.failed, 'prediction')} failed" if self.failed else "")


def made(row: PredictionRow) -> str:
    """Return how a prediction was made: `weights bfloat16, autocast bfloat16, batch of 8`."""
    return f"weights {visible(row.model_dtype)}, autocast {visible(row.precision)}, batch of {row.batch_size}"


def jobs(rows: Iterable[PredictionRow]) -> list[Job]:
    """Return the jobs, that with the newest prediction first; takes the rows that `rows.newest` returns."""
    found: dict[str, list[PredictionRow]] = {}
    for row in rows:
        found.setdefault(row.job, []).append(row)
    by_age = sorted(found.values(), key=lambda own: max(row.created_at for row in own), reverse=True)
    return [_job(own) for own in by_age]


def only(job: Job, steps: Collection[int], samples: Collection[int]) -> Job:
    """Return the part of a job that is of these steps and samples; none named means all.

    What a prediction is compared with stays, also where it is not part of this.
    """
    kept = {
        index: [judged for judged in history if not steps or judged.row.step in steps]
        for index, history in job.samples.items()
        if not samples or index in samples
    }
    kept = {index: history for index, history in kept.items() if history}
    return Job(job.name, job.user, kept, _steps([judged for history in kept.values() for judged in history]))


def _job(rows: Sequence[PredictionRow]) -> Job:
    samples: dict[int, list[Judged]] = {}
    for row in sorted(rows, key=lambda row: (row.sample_index, row.step)):
        history = samples.setdefault(row.sample_index, [])
        written = [judged.row for judged in history if not judged.failed]
        history.append(_judged(row, written[-1] if written else None))
    judged = [one for history in samples.values() for one in history]
    return Job(rows[0].job, rows[-1].user, samples, _steps(judged))


def _judged(row: PredictionRow, before: PredictionRow | None) -> Judged:
    if row.prediction is None or row.ground_truth is None:
        return Judged(row, None, None, before)
    found = exact(row.ground_truth, row.prediction), similarity(row.ground_truth, row.prediction)
    return Judged(row, *found, before)


def _steps(judged: Iterable[Judged]) -> list[Step]:
    found: dict[int, list[Judged]] = {}
    for one in judged:
        found.setdefault(one.row.step, []).append(one)
    return [_step(step, found[step]) for step in sorted(found)]


def _step(step: int, of_it: Sequence[Judged]) -> Step:
    likeness = [one.similarity for one in of_it if one.similarity is not None]
    return Step(
        step,
        of_it[0].row.epoch,
        len(of_it),
        sum(one.failed for one in of_it),
        sum(one.exact is not None for one in of_it),
        sum(bool(one.exact) for one in of_it),
        fmean(likeness) if likeness else None,
    )
