"""Predictions as a table in the reporters that the Trainer itself logs to: trackio, wandb, TensorBoard."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from ftdoctor.wording import count, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from ftdoctor.prediction.rows import PredictionRow

KEY = "predictions"
"""Name of the table in each reporter."""
COLUMNS = ("step", "sample", "prompt", "ground truth", "prediction", "error")
LIMIT = 2_000
"""Characters of a text that a table shows; the writers have it whole."""
HISTORY = 200
"""Rows of the table in wandb, which shows the last one alone."""

log = logging.getLogger("ftdoctor.prediction")
_told: set[str] = set()


def report_table(
    rows: Sequence[PredictionRow], history: Sequence[PredictionRow], report_to: Sequence[str]
) -> list[str]:
    """Show the predictions of a step as a table in each of the Trainer's reporters that can.

    The run is the one that the Trainer has begun; none is begun here. A reporter that is not installed, has no run, or
    refuses the table is named once in the log. Long texts are shortened, and characters that a page cannot show are
    replaced by their escapes.

    Args:
        rows: those of this step.
        history: all rows of the run so far, these among them.
        report_to: the reporters, as in TrainingArguments.

    Returns:
        The names of those that took the table.
    """
    taken = []
    for name in report_to:
        report = _REPORTERS.get(name)
        if report is None or not rows:
            continue
        try:
            report(rows, history)
            taken.append(name)
        except Exception as error:  # noqa: BLE001 - a reporter's failure is not the training's
            if name not in _told:
                _told.add(name)
                log.warning("No table of predictions in %s: %s: %s", name, type(error).__name__, error)
    return taken


def cells(row: PredictionRow) -> list[Any]:
    """Return a row in the order of the columns, its texts shortened and fit to be shown."""
    texts = (row.prompt, row.ground_truth, row.prediction, row.error)
    return [row.step, row.sample_index, *(shown(text) for text in texts)]


def shown(text: str | None) -> str:
    """Return at most `LIMIT` characters of a text, and how many are left out; control characters as escapes."""
    if text is None:
        return ""
    left_out, kept = len(text) - LIMIT, visible(text[:LIMIT])
    return f"{kept} … ({count(left_out, 'more character')})" if left_out > 0 else kept


def markdown(rows: Sequence[PredictionRow]) -> str:
    """Return rows as a Markdown table in which no text is markup."""
    lines = [list(map(str, cells(row))) for row in rows]
    body = [f"| {' | '.join(map(_literal, line))} |" for line in lines]
    return "\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *body])


def _literal(text: str) -> str:
    """Return a text as numeric entities wherever Markdown or HTML would read more than letters into it."""
    text = "".join(c if c.isalnum() or c in " ,.\n" or ord(c) > 127 else f"&#{ord(c)};" for c in text)
    return text.replace("\n", "<br>")


def _trackio(rows: Sequence[PredictionRow], history: Sequence[PredictionRow]) -> None:
    import trackio  # type: ignore[import-not-found,unused-ignore]

    # Its page has each table that was logged, and shows cells as text.
    table = trackio.Table(columns=list(COLUMNS), data=[cells(row) for row in rows])
    trackio.log({KEY: table, "train/global_step": rows[0].step})


def _wandb(rows: Sequence[PredictionRow], history: Sequence[PredictionRow]) -> None:
    import wandb  # type: ignore[import-not-found,unused-ignore]

    if wandb.run is None:
        raise RuntimeError("the Trainer has begun no run")
    table = wandb.Table(columns=list(COLUMNS), data=[cells(row) for row in history[-HISTORY:]])
    # Without a step of its own, as the Trainer logs: wandb drops what comes with an earlier one than it has seen.
    wandb.log({KEY: table, "train/global_step": rows[0].step})


def _tensorboard(rows: Sequence[PredictionRow], history: Sequence[PredictionRow]) -> None:
    writer = _of_the_trainer("TensorBoardCallback", "tb_writer")
    if writer is None:
        raise RuntimeError("the Trainer has no writer for it")
    writer.add_text(KEY, markdown(rows), rows[0].step)
    writer.flush()


def _of_the_trainer(callback: str, name: str) -> Any:
    """Return an attribute of one of the Trainer's own callbacks, or None.

    It hands its callbacks no way to each other, but its list of them is what has called us. A second writer would
    write a second file into the same folder, and TensorBoard no longer reads the first one when there is a newer.
    """
    from transformers.trainer_callback import CallbackHandler

    frame: FrameType | None = sys._getframe()
    while frame is not None:
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler):
            return next((getattr(c, name, None) for c in handler.callbacks if type(c).__name__ == callback), None)
        frame = frame.f_back
    return None


_REPORTERS: dict[str, Callable[[Sequence[PredictionRow], Sequence[PredictionRow]], None]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
