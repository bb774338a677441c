"""What `train` and `inbox` share: signals that stop between steps, progress for a person, the page of the summary."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shlex
import signal
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.prediction import writers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from ftdoctor.training.finetuning import Outcome
    from ftdoctor.training.messages import Messages
    from ftdoctor.training.recipe import PredictionPlan, Recipe

    Progress = Callable[[int, int, dict[str, float]], None]

NEEDED = ("torch", "transformers", "peft", "trl", "datasets")


def train(
    recipe: Recipe,
    dataset: Path,
    folder: Path,
    earlier: Sequence[Path] = (),
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    predictions: Predictions | None = None,
) -> Outcome:
    """Fine-tune, and write the summary's page beside its JSON.

    Raises:
        FtdoctorError: data, model, adapter or folder cannot be used; wrong data is told before torch is imported.
    """
    from ftdoctor.training.data import read_rows
    from ftdoctor_reports import training

    require_stack()
    for file in (dataset, *earlier, *(predictions.files if predictions else ())):
        for _ in read_rows(file):
            pass

    with _libraries_quiet():
        from ftdoctor.training.finetuning import finetune

        more: Any = {"callbacks": predictions.callbacks} if predictions else {}
        outcome = finetune(recipe, dataset, folder, earlier=earlier, stop=stop, progress=progress, **more)
    document = json.loads(outcome.summary.read_text(encoding="utf-8"))
    outcome.summary.with_suffix(".html").write_text(training.render(document), encoding="utf-8")
    return outcome


class Predictions:
    """The sample predictions of a run: made beside its training, and told of at its end.

    Attributes:
        files: what is read for predictions alone: a file, or nothing.

    Args:
        plan: how often, and of what.
        seed: draws the rows.
        dataset: the file that is trained on, whose rows are predicted where the plan names no other.
        folder: of the run; predictions are added to the file in it.
    """

    def __init__(self, plan: PredictionPlan, seed: int, dataset: Path, folder: Path) -> None:
        self.plan, self.seed, self.folder = plan, seed, folder
        self.written_to = folder / writers.FILE
        self.files = (Path(plan.predict_on),) if plan.predict_on else ()
        self.source = self.files[0] if self.files else dataset
        self.off = False
        self._callback: Any = None

    def callbacks(self, messages: Messages) -> list[Any]:
        """Return the callback that predicts, with rows made by the rules of the training.

        Raises:
            DataError: a row cannot be a sample, with file and line.
            PredictionError: FTDOCTOR_PREDICTIONS says neither on nor off.
        """
        from ftdoctor.prediction import PredictionsCallback, callback, samples
        from ftdoctor.training.data import read_rows

        self.off = not callback.switched_on()
        if self.off:
            return []
        rows = list(read_rows(self.source))
        chosen = samples.choose(rows, self.plan.predict_samples, self.seed)
        # Of the dataset all rows have been converted already; of another file a wrong one is told wherever it stands.
        wanted = set(range(len(rows)) if self.files else chosen)
        made = [messages.convert(row.data, row.where) if i in wanted else None for i, row in enumerate(rows)]
        self._callback = PredictionsCallback(
            [row if i in set(chosen) else None for i, row in enumerate(made)],
            when=self.plan.predict_every,
            indices=chosen,
            writer=self.written_to,
            job=os.environ.get("JOB_ID") or self.folder.resolve().name,
        )
        return [self._callback]

    def told(self, outcome: Outcome | None) -> str:
        """Return what became of them, in a line; nothing where a run has failed before the first."""
        if self.off:
            return "predictions: none, for FTDOCTOR_PREDICTIONS is off"
        look = f"ftdoctor predictions {shlex.quote(str(self.written_to))}"
        counts = self._callback.counts if self._callback else None
        if counts and counts.asked:
            lost = f", {counts.lost} not written" if counts.lost else ""
            return f"predictions: {counts.asked - counts.failed} made, {counts.failed} failed{lost}; see: {look}"
        if outcome is None:
            return ""
        before = f"; see those from before: {look}" if _holds_predictions(self.written_to) else ""
        return f"predictions: none, for no step of this call was a multiple of {self.plan.predict_every}{before}"


def _holds_predictions(file: Path) -> bool:
    from ftdoctor.errors import PredictionError
    from ftdoctor.prediction import read_predictions

    try:
        return bool(read_predictions(str(file)))
    except PredictionError:
        return False


def require_stack() -> None:
    """Refuse to train where a library that it needs is not installed.

    Raises:
        UsageError: with the command that installs them.
    """
    from ftdoctor.errors import UsageError

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"Training needs {', '.join(missing)}: pip install 'ftdoctor[stack]'.")


@contextlib.contextmanager
def _libraries_quiet() -> Iterator[None]:
    """Keep bars and notices of the libraries out of our own progress; what matters is in the summary."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a run goes online only where it is asked to
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        from transformers.utils import logging as library

        library.set_verbosity_error()
        library.disable_progress_bar()
        import datasets

        datasets.disable_progress_bars()
        yield


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Take the first Ctrl-C or SIGTERM as a wish to stop after the present step; a second one is Ctrl-C again."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """What a person sees of a training: what was found, a bar on a terminal, lines in a log file."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """Give a function that shows how far the training is."""
        if self.quiet:
            yield None
            return
        handler = _Lines(self.console)
        logger, beside = logging.getLogger("ftdoctor.training"), logging.getLogger("ftdoctor.prediction")
        level = logger.level
        logger.addHandler(handler)
        beside.addHandler(handler)  # of predictions the warnings alone: the last line has the rest
        logger.setLevel(logging.INFO)
        try:
            if self.console.is_terminal:
                yield from self._bar()
            else:
                yield self._line
        finally:
            logger.removeHandler(handler)
            beside.removeHandler(handler)
            logger.setLevel(level)

    def _bar(self) -> Iterator[Progress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("training", total=None, told="")

            def show(step: int, steps: int, logs: dict[str, float]) -> None:
                bar.update(task, completed=step, total=steps, told=_told(logs))

            yield show

    def _line(self, step: int, steps: int, logs: dict[str, float]) -> None:
        if "loss" in logs:
            self.console.print(f"step {step} of {steps}  {_told(logs)}", markup=False)


def _told(logs: dict[str, float]) -> str:
    words = {"loss": "loss {:.4f}", "learning_rate": "lr {:.2e}", "tokens_per_second": "{:.0f} tokens/s"}
    return "  ".join(text.format(float(logs[name])) for name, text in words.items() if name in logs)


class _Lines(logging.Handler):
    """Prints what the components say."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), markup=False, style="yellow" if record.levelno > logging.INFO else None)
