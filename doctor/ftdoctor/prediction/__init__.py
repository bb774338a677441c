"""Sample predictions during training, written down, without disturbing the training.

Nothing of the stack is imported before one of these names is asked for. Which file belongs to what:

    generating  generator, limits, decoding (one call of `generate`), prompts, bounds (what fits), failures
    state       undisturbed (everything is put back), precision, sharded
    training    callback, samples, reporters
    writing     writers (chosen by URL), rows, stored (rows as stores hold them); sqlite_writer, jsonl_writer
    delivering  delivery (what writers promise), database, http_api, address, delivering (retries), spool
    reading     reading
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor.lazy import exports

if TYPE_CHECKING:
    from ftdoctor.prediction.callback import PredictionsCallback
    from ftdoctor.prediction.delivery import Delivery, Writer
    from ftdoctor.prediction.generator import Prediction, PredictionGenerator
    from ftdoctor.prediction.limits import GenerationSettings
    from ftdoctor.prediction.reading import read_predictions
    from ftdoctor.prediction.rows import PredictionRow
    from ftdoctor.prediction.writers import deliver, open_writer

__all__ = [
    "Delivery",
    "GenerationSettings",
    "Prediction",
    "PredictionGenerator",
    "PredictionRow",
    "PredictionsCallback",
    "Writer",
    "deliver",
    "open_writer",
    "read_predictions",
]

_HOMES = {
    "callback": ("PredictionsCallback",),
    "delivery": ("Delivery", "Writer"),
    "generator": ("Prediction", "PredictionGenerator"),
    "limits": ("GenerationSettings",),
    "reading": ("read_predictions",),
    "rows": ("PredictionRow",),
    "writers": ("deliver", "open_writer"),
}
__getattr__ = exports(__name__, _HOMES, globals())
