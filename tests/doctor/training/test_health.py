"""The log shows what tells a healthy run from a sick one, and an impossible first loss is called by its name."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

KEYS = {"scored_tokens_per_step", "masked_share", "tokens_per_second", "memory_gib"}


@pytest.fixture
def run(make_bench):
    """Return a function that trains with the health log on encoded rows, in their own order."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer

    from ftdoctor.training.health import HealthLog

    def train(*mixins, rows=8, label=None, trainer="plain", options=None, resume=None, **changes):
        bench = make_bench(trainer=trainer, adapter="lora")
        tokenizer = bench.tokenizer()
        encoded = [bench.encode(tokenizer, *pair) for pair in bench.rows(rows)]
        for row in encoded:
            row["labels"] = row["labels"] if label is None else label(row)
        values = {"max_steps": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
        base = Trainer
        if trainer == "sft":
            from trl import SFTTrainer

            base = SFTTrainer
            values["dataset_kwargs"] = {"skip_prepare_dataset": True}
        dataset = Dataset.from_list(encoded)
        torch.manual_seed(0)

        class Ordered(*(mixins or (HealthLog,)), base):
            def _get_train_sampler(self, *_):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        made = Ordered(
            model=bench.trainable(),
            args=bench.arguments(**{**values, **changes}),
            train_dataset=dataset,
            eval_dataset=dataset,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
            processing_class=tokenizer,
            **(options or {}),
        )
        made.train(resume_from_checkpoint=resume)
        return made

    return train


def entries(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_each_entry_of_the_training_log_counts_its_tokens(run, trainer, every):
    """Scored ones per step, and the share of the others among what is not padding."""
    made = run(trainer=trainer, logging_steps=every)
    rows = made.train_dataset.to_list()
    windows = [rows[i : i + 2 * every] for i in range(0, 8, 2 * every)]
    scored = [sum(label != -100 for row in window for label in row["labels"][1:]) for window in windows]
    tokens = [sum(len(row["input_ids"]) for row in window) for window in windows]

    assert [entry["scored_tokens_per_step"] for entry in entries(made)] == [n / every for n in scored]
    assert [entry["masked_share"] for entry in entries(made)] == pytest.approx(
        [1 - n / total for n, total in zip(scored, tokens, strict=True)]
    )
    assert all(set(entry) >= KEYS | {"grad_norm", "learning_rate"} for entry in entries(made))
    assert all(entry["memory_gib"] > 0.01 for entry in entries(made))


def test_padding_is_no_token(run):
    """Rows of different length in one batch."""
    made = run(per_device_train_batch_size=8, gradient_accumulation_steps=1, max_steps=1)
    rows = made.train_dataset.to_list()
    scored = sum(label != -100 for row in rows for label in row["labels"][1:])

    assert entries(made)[0]["masked_share"] == pytest.approx(1 - scored / sum(len(row["input_ids"]) for row in rows))


def test_the_first_token_of_a_row_is_never_scored(run):
    """Nothing comes before it, whatever its label says."""
    made = run(label=lambda row: row["input_ids"], gradient_accumulation_steps=1)

    assert [entry["scored_tokens_per_step"] for entry in entries(made)] == [
        len(row["input_ids"]) - 1 for row in made.train_dataset.to_list()[:4]
    ]


def test_what_others_log_is_left_alone(run):
    """An entry of a callback, even of a loss, is no step."""
    from ftdoctor.training.health import HealthLog

    class Talking:
        def training_step(self, *args):
            self.log({"loss": 1.0})
            return super().training_step(*args)

    made = run(HealthLog, Talking)

    assert [set(entry) >= KEYS for entry in entries(made)] == [False, False, True] * 4


def test_reporters_see_it(run):
    """It is in the log before any callback is told of it."""
    from transformers import TrainerCallback

    seen = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(set(logs))

    made = run(options={"callbacks": [Reporter()]})

    assert [keys >= KEYS for keys in seen] == [True] * 4 + [False]
    assert not KEYS & set(made.state.log_history[-1]), "the summary is no step"


def test_the_time_of_evaluations_and_checkpoints_does_not_count(run, monkeypatch):
    """By a clock that moves a second in each of them, and a quarter in each micro-batch."""
    from ftdoctor.training import health

    clock = [0.0]
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Timed:
        def training_step(self, *args):
            clock[0] += 0.25
            if clock[0] == 0.25:
                self.evaluate()  # in the middle of a step
            return super().training_step(*args)

        def evaluate(self, *args, **kwargs):
            clock[0] += 1
            return super().evaluate(*args, **kwargs)

        def _save_checkpoint(self, *args, **kwargs):
            clock[0] += 1
            return super()._save_checkpoint(*args, **kwargs)

    pauses = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    made = run(health.HealthLog, Timed, logging_steps=4, **pauses)
    tokens = sum(len(row["input_ids"]) for row in made.train_dataset)

    assert clock[0] == 8 * 0.25 + 4 * 2 + 1
    assert entries(made)[0]["tokens_per_second"] == pytest.approx(tokens / (8 * 0.25))
    assert not [entry for entry in made.state.log_history if "eval_loss" in entry and KEYS & set(entry)]


def test_a_gradient_norm_is_added_where_the_trainer_logs_none(run):
    """From the second entry on: at the first it is found to be missing."""
    from ftdoctor.training.health import HealthLog

    class WithoutNorm:
        def log(self, logs, *args, **kwargs):
            self.norms = [*getattr(self, "norms", []), logs.pop("grad_norm", None)]
            super().log(logs, *args, **kwargs)

    made = run(WithoutNorm, HealthLog)

    assert "grad_norm" not in entries(made)[0]
    assert [entry["grad_norm"] for entry in entries(made)[1:]] == pytest.approx(made.norms[1:4], rel=1e-5)


@pytest.mark.parametrize("bad", [2, 3])
def test_what_the_guard_drops_is_not_counted(run, bad):
    """Of a step of which something is left; and the guard says how many there were."""
    import torch

    from ftdoctor.training.guard import NonFiniteGuard
    from ftdoctor.training.health import HealthLog

    class Poisoned:
        def compute_loss(self, model, inputs, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss * math.nan if torch.equal(inputs["input_ids"][0], self.poison) else loss

        @property
        def poison(self):
            return torch.tensor(self.train_dataset[bad]["input_ids"])

    made = run(HealthLog, NonFiniteGuard, Poisoned)
    rows = made.train_dataset.to_list()
    scored = [sum(label != -100 for label in row["labels"][1:]) for row in rows]

    assert entries(made)[1]["scored_tokens_per_step"] == scored[5 - bad]
    assert [entry["skipped_batches"] for entry in entries(made)] == [0, 1, 1, 1]


def test_a_skipped_step_scores_nothing_and_is_none_of_the_steps(run):
    """The mean is over those that were taken."""
    from ftdoctor.training.guard import NonFiniteGuard
    from ftdoctor.training.health import HealthLog

    class SecondBad:
        def compute_loss(self, model, inputs, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss * math.nan if self.state.global_step == 1 else loss

    made = run(HealthLog, NonFiniteGuard, SecondBad, gradient_accumulation_steps=1, logging_steps=2)
    scored = [sum(label != -100 for label in row["labels"][1:]) for row in made.train_dataset.to_list()]

    assert [e["scored_tokens_per_step"] for e in entries(made)] == [scored[0], (scored[2] + scored[3]) / 2]


def test_it_stands_in_front_of_the_guard(run):
    """Behind it, it would count what the guard computes again."""
    from ftdoctor.errors import TrainingError
    from ftdoctor.training.guard import NonFiniteGuard
    from ftdoctor.training.health import HealthLog

    with pytest.raises(TrainingError, match=r"HealthLog, NonFiniteGuard"):
        run(NonFiniteGuard, HealthLog)


def test_a_healthy_first_loss_is_that_of_an_untrained_head(run, caplog):
    """Of a model of random weights; nothing is said aloud."""
    with caplog.at_level(logging.WARNING, "ftdoctor"):
        made = run()
    verdict = made.health.first_loss

    assert verdict.possible
    assert verdict.loss == pytest.approx(entries(made)[0]["loss"])
    assert "as of an untrained head" in verdict.sentence
    assert not [record for record in caplog.records if record.name.startswith("ftdoctor")]


class NotDivided:
    """A loss of one's own that is a mean, which the Trainer takes for divided by all items."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs, labels=labels)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def test_an_impossible_first_loss_is_a_warning(run, caplog):
    """Here a loss of one's own that is four times too large."""
    from ftdoctor.training.health import HealthLog

    with caplog.at_level(logging.WARNING, "ftdoctor"):
        made = run(HealthLog, NotDivided, gradient_accumulation_steps=4, max_steps=2)

    assert made.health.first_loss.kind == "too high"
    assert "divided by 4" in caplog.text


def test_rows_without_a_scored_token_are_named(run):
    """Where the library's log shows a clean zero."""
    made = run(label=lambda row: [-100] * len(row["labels"]))

    assert made.health.first_loss.kind == "nothing scored"


def test_a_first_step_that_was_skipped_is_not_judged(run):
    """The next one is."""
    from ftdoctor.training.guard import NonFiniteGuard
    from ftdoctor.training.health import HealthLog

    class FirstBad:
        def compute_loss(self, model, inputs, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss * math.nan if self.state.global_step == 0 else loss

    made = run(HealthLog, NonFiniteGuard, FirstBad)

    assert made.health.first_loss.possible
    assert made.health.first_loss.loss == pytest.approx(entries(made)[0]["loss"])


def test_a_resumed_run_may_begin_with_a_loss_near_zero(run):
    """It has seen its rows before."""
    from ftdoctor.training.health import HealthLog

    class Tiny:
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs) * 1e-4

    begun = run(HealthLog, Tiny, save_strategy="steps", save_steps=2)
    resumed = run(HealthLog, Tiny, save_strategy="no", resume=f"{begun.args.output_dir}/checkpoint-2")

    assert begun.health.first_loss.kind == "too low"
    assert resumed.health.first_loss.possible


VOCABULARY = 128_256
GUESS = math.log(VOCABULARY)
CASES = {
    "a pretrained model": (2.3, {}, "plausible", "trained before"),
    "an untrained head": (GUESS + 0.4, {"distinct": 500}, "plausible", "untrained head"),
    "nothing scored": (0.0, {"scored": 0}, "nothing scored", "-100"),
    "0/0": (math.nan, {"scored": 0}, "nothing scored", "-100"),
    "zero, and it is not known of how many": (0.0, {}, "nothing scored", "-100"),
    "zero of some tokens": (0.0, {"scored": 9}, "too low", "sees the labels"),
    "copied": (0.004, {"scored": 9}, "too low", "sees the labels"),
    "memorized": (0.004, {"scored": 9, "trained": True}, "plausible", "trained before"),
    "not finite": (math.inf, {"scored": 9}, "not finite", "data and dtype"),
    "labels shifted twice": (2 * GUESS, {"distinct": 500}, "too high", "shifted twice"),
    "not divided": (8 * GUESS, {"distinct": 500, "accumulation": 8}, "too high", "once divided by 8"),
    "divided, and still too high": (40 * GUESS, {"accumulation": 8}, "too high", "shifted twice"),
}


@pytest.mark.parametrize(("loss", "known", "kind", "words"), CASES.values(), ids=CASES)
def test_a_first_loss_is_judged_by_what_a_guess_costs(loss, known, kind, words):
    """In plain words."""
    from ftdoctor.training.health import first_loss_verdict

    verdict = first_loss_verdict(loss, VOCABULARY, **known)

    assert (verdict.kind, verdict.possible) == (kind, kind == "plausible")
    assert words in verdict.sentence


@pytest.mark.parametrize("width", [64, 1024, 4096])
def test_an_untrained_head_stays_below_the_bound_and_the_bound_is_near(width):
    """Random heads of the library's initializer, behind a norm: the derivation of the bound, measured."""
    import torch

    from ftdoctor.training.health import first_loss_verdict

    torch.manual_seed(0)
    vocabulary, distinct, spread = 4096, 64, 0.02**2 * width
    for _ in range(20):
        hidden = torch.nn.functional.normalize(torch.randn(distinct, width), dim=-1) * math.sqrt(width)
        logits = hidden @ (torch.randn(vocabulary, width) * 0.02).T
        loss = float(torch.nn.functional.cross_entropy(logits, torch.randperm(vocabulary)[:distinct]))

        assert first_loss_verdict(loss, vocabulary, distinct=distinct, spread=spread).possible
        assert not first_loss_verdict(
            loss + spread / 2 + 8 * math.sqrt(spread / distinct), vocabulary, distinct=distinct, spread=spread
        ).possible
