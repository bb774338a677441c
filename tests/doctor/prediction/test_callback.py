"""Predictions at the evaluations of real trainers: written, counted, told of, and never felt by the training."""

from __future__ import annotations

import logging

import pytest

from ftdoctor.bench.watch import copy_of, logged
from ftdoctor.errors import PredictionError
from ftdoctor.prediction import Delivery, GenerationSettings, PredictionsCallback, open_writer, read_predictions

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

SETTINGS = GenerationSettings(max_new_tokens=4)


class Kept:
    """A writer that keeps rows in memory."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, rows):
        self.rows += rows
        return Delivery(written=len(rows))

    def close(self):
        self.closed += 1
        return Delivery()

    @property
    def steps(self):
        return [row.step for row in self.rows]


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def samples(make_bench):
    """Rows with messages."""
    return [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in make_bench().rows(8)
    ]


@pytest.fixture
def train(make_bench):
    """Return a function that trains a few steps with a callback, and returns the trainer."""

    def run(callback=None, evaluate=2, changes=None, seed=0, rows=8, **cell):
        import torch

        bench = make_bench(**cell)
        tokenizer = bench.tokenizer()
        torch.manual_seed(seed)
        model = bench.trainable()
        for module in model.modules():
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = 0.2
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        arguments = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": evaluate, **(changes or {})}
        if not evaluate:
            arguments = {k: v for k, v in arguments.items() if not k.startswith("eval")}
        made = bench.arguments(**arguments)
        made.seed = seed
        trainer = bench.trainer(
            model,
            tokenizer,
            made,
            rows=rows,
            eval_dataset=bench.dataset(tokenizer, 4) if evaluate else None,
            callbacks=callback if isinstance(callback, list) else [callback] if callback else [],
        )
        trainer.train()
        return trainer

    return run


@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_one_row_a_sample_at_each_evaluation(train, samples, kept, trainer):
    """With what the row should have said beside it."""
    callback = PredictionsCallback(samples, count=3, seed=1, writer=kept, settings=SETTINGS, job="j", user="u")

    train(callback, trainer=trainer)

    assert kept.steps == [2, 2, 2, 4, 4, 4]
    first = kept.rows[0]
    assert (first.job, first.user, first.epoch) == ("j", "u", 0.5)
    assert [r.sample_index for r in kept.rows[:3]] == [r.sample_index for r in kept.rows[3:]]
    assert first.ground_truth == samples[first.sample_index]["messages"][-1]["content"]
    assert samples[first.sample_index]["messages"][0]["content"] in first.prompt
    assert all(r.error is None and r.prediction is not None and r.tokens == 4 for r in kept.rows)
    assert len({r.id for r in kept.rows}) == 6
    assert kept.closed == 1


@pytest.mark.parametrize(("when", "steps"), [("eval", [2, 4]), ("epoch", [4]), (1, [1, 2, 3, 4]), (3, [3])], ids=str)
def test_when(train, samples, kept, when, steps):
    """At evaluations, at the end of epochs, or every so many steps."""
    train(PredictionsCallback(samples, when=when, count=1, writer=kept, settings=SETTINGS))

    assert kept.steps == steps


CELLS = [
    {"adapter": "none"},
    {"adapter": "lora", "trainer": "sft", "mixed_precision": "bf16"},
    {"adapter": "lora", "quantization": "nf4", "checkpointing": "non_reentrant"},
    {"adapter": "lora_head", "quantization": "nf4", "trainer": "sft"},
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell.values()))
def test_the_run_is_the_one_without_it_bit_for_bit(train, samples, kept, seed, cell):
    """Losses, gradient norms and trained weights, with dropout, sampling after every step."""
    import torch

    options = GenerationSettings(max_new_tokens=4, options={"do_sample": True})
    alone = train(seed=seed, **cell)
    beside = train(PredictionsCallback(samples, when=1, writer=kept, settings=options), seed=seed, **cell)

    assert len(kept.rows) == 4 * 8
    assert not any(row.error for row in kept.rows)
    for key in ("loss", "grad_norm", "eval_loss"):
        assert logged(beside, key) == logged(alone, key)
    expected = copy_of(alone.model)
    for name, value in copy_of(beside.model).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_without_dropout_put_back_the_run_would_be_another(train):
    """What the comparison above would see: another seed gives other losses."""
    assert logged(train(seed=0, adapter="none"), "loss") != logged(train(seed=1, adapter="none"), "loss")


def test_several_evaluation_sets_give_one_row_a_sample(train, samples, kept, make_bench):
    """`on_evaluate` comes once for each of them."""
    bench = make_bench()
    two = {name: bench.dataset(bench.tokenizer(), 2) for name in ("a", "b")}
    trainer = train(evaluate=0)
    trainer.eval_dataset = two
    trainer.add_callback(PredictionsCallback(samples, count=1, writer=kept, settings=SETTINGS))

    trainer.evaluate()

    assert kept.steps == [4]


def test_evaluation_before_the_first_step_is_step_0(train, samples, kept):
    """`eval_on_start`."""
    train(PredictionsCallback(samples, count=1, writer=kept, settings=SETTINGS), changes={"eval_on_start": True})

    assert kept.steps == [0, 2, 4]


def test_the_default_is_one_sqlite_file_in_the_output_folder(train, samples):
    """Named by the run's folder, with no server and no setting."""
    trainer = train(PredictionsCallback(samples, count=2, settings=SETTINGS))

    rows = read_predictions(f"{trainer.args.output_dir}/predictions.db")

    assert [r.step for r in rows] == [2, 2, 4, 4]
    assert {r.job for r in rows} == {trainer.args.output_dir.rpartition("/")[2]}


@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_without_samples_the_evaluation_set_is_used(train, kept, make_bench, trainer):
    """Also where the trainer has tokenized it: the prompt ends where the scored tokens begin."""
    train(PredictionsCallback(count=2, indices=[0, -1], writer=kept, settings=SETTINGS), trainer=trainer)

    pairs = make_bench().rows(4)
    assert [r.sample_index for r in kept.rows[:2]] == [0, 3]
    for row, (question, answer) in zip(kept.rows, (pairs[0], pairs[3]), strict=False):
        assert question in row.prompt
        assert row.prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert row.ground_truth == answer


def test_what_an_earlier_process_has_left_is_delivered_when_a_run_begins(train, samples, api, make_row, monkeypatch):
    """Not only at its first evaluation."""
    monkeypatch.setenv("METRICS_API_URL", api.url)
    api.script += [401]
    left = open_writer("http")
    assert left.write([make_row(step=7)]).waiting == 1

    train(PredictionsCallback(samples, count=1, writer="http", settings=SETTINGS, job="job-1"), adapter="none")

    assert api.steps == [7, 2, 4]
    assert len(api.requests) == 4


def test_each_run_of_a_callback_begins_anew(train, kept):
    """With the tokenizer and the evaluation set of its own trainer, and with counts of its own."""
    callback = PredictionsCallback(count=2, writer=kept, settings=SETTINGS)

    for family, mark in (("llama", "<|start_header_id|>"), ("qwen3", "<|im_start|>")):
        kept.rows.clear()
        train(callback, family=family)
        assert all(mark in row.prompt for row in kept.rows)
        assert (callback.counts.asked, callback.counts.written, len(callback.rows)) == (4, 4, 4)


def test_a_run_after_one_that_broke_off_writes_into_its_own_folder(train, samples, tmp_path):
    """And not into that of the run before, which nobody has ended."""
    from transformers import TrainerCallback

    callback = PredictionsCallback(samples, count=1, when=2, settings=SETTINGS)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    folders = [tmp_path / name for name in ("broken", "whole")]
    with pytest.raises(KeyboardInterrupt):
        train([callback, Stop()], evaluate=0, changes={"output_dir": str(folders[0])})
    train(callback, evaluate=0, changes={"output_dir": str(folders[1])})

    written = [[(r.job, r.step) for r in read_predictions(str(f / "predictions.db"))] for f in folders]
    assert written == [[("broken", 2)], [("whole", 2), ("whole", 4)]]


class TestFailures:
    """Never an empty table without a word."""

    @pytest.fixture
    def broken(self, train, monkeypatch):
        """Return a function that trains a model whose `generate` always raises."""
        from transformers import GenerationMixin

        def fail(*_, **__):
            raise RuntimeError("expected scalar type Float but found BFloat16")

        monkeypatch.setattr(GenerationMixin, "_sample", fail)
        return train

    def test_all_failed_is_told_at_the_first_time_and_written(self, broken, samples, kept, caplog):
        """Each sample has its row, with the error."""
        callback = PredictionsCallback(samples, count=2, writer=kept, settings=SETTINGS)

        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            broken(callback, adapter="none")

        assert [(r.step, r.prediction) for r in kept.rows] == [(2, None), (2, None), (4, None), (4, None)]
        assert all("RuntimeError: expected scalar type Float" in r.error for r in kept.rows)
        told = [record.getMessage() for record in caplog.records]
        assert (
            len([t for t in told if t.startswith("All 2 predictions at step 2 failed; the first: RuntimeError")]) == 1
        )
        assert told[-1].startswith("4 predictions in ")
        assert "4 failed, 4 written" in told[-1]

    def test_if_asked_it_ends_the_run(self, broken, samples, kept):
        """After the rows are written."""
        callback = PredictionsCallback(samples, count=2, writer=kept, settings=SETTINGS, strict=True)

        with pytest.raises(PredictionError, match=r"All 2 predictions at step 2 failed.* strict=True ends the run"):
            broken(callback, adapter="none")

        assert kept.steps == [2, 2]

    def test_some_failed_is_told_once(self, train, kept, caplog, samples):
        """And does not end a strict run."""
        samples[3] = {"prompt": 7, "completion": "x"}
        callback = PredictionsCallback(samples, count=8, writer=kept, settings=SETTINGS, strict=True)

        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            train(callback, adapter="none")

        told = [record.getMessage() for record in caplog.records]
        assert [t for t in told if "1 of 8 predictions at step 2 failed" in t]
        assert not [t for t in told if "step 4" in t]

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_writer_that_raises_costs_its_rows_and_not_the_run(self, train, samples, kept, caplog, strict):
        """Others still get them."""

        class Broken(Kept):
            def write(self, rows):
                raise OSError("disk full")

        callback = PredictionsCallback(samples, count=2, writer=[Broken(), kept], settings=SETTINGS, strict=strict)
        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            if strict:
                with pytest.raises(OSError, match="disk full"):
                    train(callback, adapter="none")
                return
            train(callback, adapter="none")

        assert kept.steps == [2, 2, 4, 4]
        assert callback.counts.lost == 4
        assert "Predictions cannot be written: disk full" in caplog.text
        assert "2 rows of predictions could not be written: disk full" in caplog.text

    def test_a_run_in_which_none_was_due_says_so(self, train, samples, kept, caplog):
        """`when` and the trainer's arguments do not fit each other."""
        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            train(PredictionsCallback(samples, writer=kept), evaluate=0)

        assert "No sample prediction was made in this run: when='eval' never came" in caplog.text

    def test_a_set_that_cannot_be_read_does_not_end_a_run_that_has_begun(self, train, kept, caplog):
        """Whatever it raises; and it is not said that there was no evaluation."""

        class Torn(list):
            def __getitem__(self, index):
                raise OSError("the disk is gone")

        callback = PredictionsCallback(writer=kept, when=2)
        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            trainer = train(evaluate=0)
            trainer.add_callback(callback)
            trainer.callback_handler.eval_dataloader = type("Loader", (), {"dataset": Torn("ab")})()
            trainer.train()

        assert trainer.state.global_step == 4
        assert "No sample predictions: OSError: the disk is gone" in caplog.text
        assert "never came" not in caplog.text

    def test_samples_without_a_prompt_end_the_run_before_it_begins(self, train, kept):
        """Rows that are given are looked at first."""
        with pytest.raises(PredictionError, match="row 0 has only text"):
            train(PredictionsCallback([{"text": "all of it"}], writer=kept))

    def test_samples_of_which_none_can_be_shown_end_the_run_before_it_begins(self, train, samples, kept, make_bench):
        """A tokenizer without a chat template, which would fail at every evaluation."""
        tokenizer = make_bench().tokenizer()
        tokenizer.chat_template = None

        with pytest.raises(
            PredictionError, match="none of the samples can be shown to the model: the tokenizer has no"
        ):
            train(PredictionsCallback(samples, writer=kept, tokenizer=tokenizer))

    def test_an_evaluation_set_without_a_prompt_is_told_and_does_not_end_a_run_that_has_begun(
        self, train, kept, caplog
    ):
        """But a strict one."""
        with caplog.at_level(logging.WARNING, "ftdoctor.prediction"):
            trainer = train(PredictionsCallback(writer=kept), evaluate=0)
            trainer.eval_dataset = trainer.train_dataset.map(lambda row: {"labels": row["input_ids"]})
            trainer.evaluate()
        assert "No sample predictions: the tokens of row 0 are all scored" in caplog.text

        trainer.add_callback(PredictionsCallback(writer=kept, strict=True))
        with pytest.raises(PredictionError, match="no answer begins anywhere"):
            trainer.evaluate()


class TestSwitch:
    """FTDOCTOR_PREDICTIONS."""

    @pytest.mark.parametrize("said", ["off", "OFF", "0", "false"])
    def test_off_turns_everything_off(self, train, samples, kept, monkeypatch, said):
        """Without a change of the code: no prediction, no file."""
        monkeypatch.setenv("FTDOCTOR_PREDICTIONS", said)

        trainer = train(PredictionsCallback(samples, settings=SETTINGS))
        train(PredictionsCallback([{"text": "wrong"}], writer=kept, settings=SETTINGS, strict=True))

        assert kept.rows == []
        import pathlib

        assert not (pathlib.Path(trainer.args.output_dir) / "predictions.db").exists()

    def test_a_word_that_is_neither_is_refused(self, samples, monkeypatch):
        """It would be taken for the other."""
        monkeypatch.setenv("FTDOCTOR_PREDICTIONS", "of")

        with pytest.raises(PredictionError, match="FTDOCTOR_PREDICTIONS is 'of'; it is on or off"):
            PredictionsCallback(samples)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"when": "evl"}, "did you mean 'eval'"),
        ({"when": 0}, "a number of steps above 0"),
        ({"when": True}, "a number of steps above 0"),
        ({"count": 0}, "at least 1"),
        ({"count": "3"}, "count is '3'; it must be a whole number"),
        ({"indices": []}, "at least one"),
        ({"indices": 3}, "a list of row numbers"),
        ({"settings": {"max_new_tokens": 4}}, "give GenerationSettings"),
        ({"writer": 5}, "writer is a int; give a path, a URL"),
        ({"indices": [8]}, "there is no row 8 in the set that predictions are made for; it has 8"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(samples, arguments, told):
    """In one sentence."""
    with pytest.raises(PredictionError, match=told):
        PredictionsCallback(samples, **arguments)


def test_job_and_user_come_from_the_environment(train, samples, kept, monkeypatch):
    """Where a platform sets them."""
    monkeypatch.setenv("JOB_ID", "job-7")
    monkeypatch.setenv("JOB_USER_ID", "user-9")

    train(PredictionsCallback(samples, count=1, writer=kept, settings=SETTINGS))

    assert {(r.job, r.user) for r in kept.rows} == {("job-7", "user-9")}


def test_prompts_are_made_by_the_rules_of_the_training_rows(train, kept, make_bench):
    """A system prompt that training saw is there at prediction."""
    from ftdoctor.training import MessageRules, Messages

    rules = Messages(MessageRules(system_prompt="Answer in one word.", parts="text"))
    rows = [{"prompt": "Who?", "completion": "Me."}]

    train(PredictionsCallback(rows, writer=kept, settings=SETTINGS, messages=rules))

    assert "Answer in one word." in kept.rows[0].prompt
    assert kept.rows[0].ground_truth == "Me."
