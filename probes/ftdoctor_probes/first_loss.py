"""A first loss that no healthy run can have is called impossible, a possible one is not, and tokens are counted.

Why: a loss that was not divided by the accumulated batches, or labels that are all masked, show in the very first
step. The usual log shows a number in both cases, and for the second a clean 0.0; rules of thumb (`above 20 is bad,
below 0.5 is bad`) miss the first at a small vocabulary, and cry wolf where a pretrained model is simply good.

Cure: put `HealthLog` of `ftdoctor.training` in front of your trainer; if this probe is red, the trainer of this
release normalises or logs the loss in another way: install another release of the culprit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.reference import IGNORED
from ftdoctor.bench.watch import logged, undisturbed
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

ACCUMULATION = 2
PER_BATCH = 2
PRETRAINED = (0.05, 0.3, 1.0, 3.0)
"""Nats a token of pretrained models: a short answer that is nearly sure, code, prose, text of another language."""


@probe(
    area="components",
    needs=("transformers", "datasets"),
    axes=("trainer", "family", "adapter", "device"),
    references=("huggingface/transformers#43595", "huggingface/trl#6668"),
)
def first_loss(bench: Bench, check: Check) -> None:
    """Begin a healthy run, one whose loss is not divided, and one without a scored token."""
    from ftdoctor.training import HealthLog, first_loss_verdict

    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, q, a) for q, a in bench.rows(ACCUMULATION * PER_BATCH)]
    masked = [{**row, "labels": [IGNORED] * len(row["labels"])} for row in rows]
    healthy = _train(bench, rows)
    for name, trainer, expected in (
        ("healthy run", healthy, "plausible"),
        ("run whose loss is not divided", _train(bench, rows, divided=False), "too high"),
        ("run without a scored token", _train(bench, masked), "nothing scored"),
    ):
        loss = next(iter(logged(trainer, "loss").values()))
        check.equal(
            f"verdict on a {name}",
            trainer.health.first_loss.kind,
            expected,
            why=f"the head is untrained; logged as {loss:.4g}",
            owner=HealthLog.training_step,
            # The library's log has a number, and no word for it.
            beside={"naive": _rule_of_thumb(loss), "library": "plausible"},
        )
    check.equal(
        "losses of pretrained models that are called impossible",
        [loss for loss in PRETRAINED if not first_loss_verdict(loss, len(tokenizer)).possible],
        [],
        owner=first_loss_verdict,
        beside={"naive": [x for x in PRETRAINED if _rule_of_thumb(x) != "plausible"], "library": []},
    )
    tokens = sum(len(row["input_ids"]) for row in rows)
    scored = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    entry = next(entry for entry in healthy.state.log_history if "loss" in entry)
    check.close(
        "logged share of tokens that are not scored",
        entry["masked_share"],
        1 - scored / tokens,
        rtol=1e-12,
        why="one float64 quotient of two counts, padding not among them",
        owner=HealthLog.log,
        beside={
            "naive": _masked(healthy),
            "library": attempt(lambda: _train(bench, rows, mixin=False)["masked_share"]),
        },
    )


def _rule_of_thumb(loss: float) -> str:
    """What a well-known list of good and bad signs says of a first loss."""
    return "too high" if loss > 20 else "too low" if loss < 0.5 else "plausible"


def _masked(trainer: Any) -> float:
    """Return the share of labels that are -100, as it is counted by hand: on padded batches."""
    labels = [batch["labels"] for batch in trainer.get_train_dataloader()]
    return float(sum((part == IGNORED).sum() for part in labels) / sum(part.numel() for part in labels))


def _train(bench: Bench, rows: Any, *, divided: bool = True, mixin: bool = True) -> Any:
    """Return the trainer after one step over all rows; without the mixin, its first entry of the log."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer

    from ftdoctor.training import HealthLog

    tokenizer = bench.tokenizer()
    base, more = Trainer, {}
    if bench.cell["trainer"] == "sft":
        from trl import SFTTrainer

        base, more = SFTTrainer, {"dataset_kwargs": {"skip_prepare_dataset": True}}
    torch.manual_seed(bench.settings.seed)

    class NotDivided(base):  # type: ignore[misc,valid-type]
        """A mean over the micro-batch, which the Trainer takes for divided by the items of the step."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **counted: Any) -> Any:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    kind = base if divided else NotDivided
    made = type("Logged", (HealthLog, kind) if mixin else (kind,), {})(
        model=undisturbed(bench.trainable()),
        args=bench.arguments(
            max_steps=1,
            per_device_train_batch_size=PER_BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            **more,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        processing_class=tokenizer,
    )
    made.train()
    return made if mixin else next(entry for entry in made.state.log_history if "loss" in entry)


@first_loss.fault("the trainer forgets to divide by two", catches=("verdict on a healthy run",))
def doubled(patch: Patch) -> None:
    """A loss that is not normalised over the accumulated batches."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return 2 * original(self, *args, **kwargs)

    patch.wrap(Trainer, "compute_loss", around)


@first_loss.fault(
    "every first loss is believed",
    catches=("verdict on a run whose loss is not divided", "verdict on a run without a scored token"),
    cell={"trainer": "sft"},
)
def all_believed(patch: Patch) -> None:
    """As the usual log does."""
    from ftdoctor.training import health

    def around(original: Any, loss: float, vocabulary: int, **known: Any) -> Any:
        return health.Verdict("plausible", loss, "")

    patch.wrap(health, "first_loss_verdict", around)


@first_loss.fault(
    "what is below half a nat is called too low",
    catches=("losses of pretrained models that are called impossible",),
)
def half_a_nat(patch: Patch) -> None:
    """The rule of thumb."""
    from ftdoctor.training import health

    patch.replace(health, "LEAST", 0.5)


@first_loss.fault("padding is counted", catches=("logged share of tokens that are not scored",))
def padding_counted(patch: Patch) -> None:
    """All positions of a batch are taken for tokens."""
    from ftdoctor.training import health

    patch.replace(health, "_size", lambda inputs: inputs["input_ids"].numel())
