"""A batch that is not finite leaves no trace: not in the weights, not in the optimizer, not in what comes after it."""

from __future__ import annotations

import json
import math

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]

POISON = 500
"""A token that no text of the bench contains."""
BAD_STEPS = (3, 7)
STEPS = 8


def is_bad(batch):
    return bool((batch["input_ids"] == POISON).any())


def encoded_rows(bench, tokenizer, number, bad):
    """Return encoded rows; those numbered in `bad` begin with the poison."""
    rows = [bench.encode(tokenizer, question, answer) for question, answer in bench.rows(number)]
    first = {"input_ids": POISON, "attention_mask": 1, "labels": -100}
    return [{k: [first[k], *v] for k, v in row.items()} if i in bad else row for i, row in enumerate(rows)]


def with_dropout(model, adapter):
    """Return the model with dropout in attention, and in the adapter where there is one."""
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    if adapter == "none":
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2))


def activations(model):
    """Let the embedding of the poison be NaN whenever it is looked up: bad again each time it is replayed."""
    model.get_input_embeddings().register_forward_hook(
        lambda module, arguments, output: output.masked_fill((arguments[0] == POISON).unsqueeze(-1), math.nan)
    )


def gradient(model):
    """Let a weight's gradient be NaN the first time a poisoned row is met, and finite when it is replayed."""
    import torch

    struck = set()

    def strike(module, arguments):
        row = tuple(arguments[0].flatten().tolist())
        if POISON in row and row not in struck:
            struck.add(row)
            parameter = [p for p in model.parameters() if p.requires_grad][1]
            handle = parameter.register_hook(lambda grad: (handle.remove(), torch.full_like(grad, math.nan))[1])

    model.get_input_embeddings().register_forward_pre_hook(strike)


SOURCES = {"activations": activations, "gradient": gradient}


@pytest.fixture
def build(make_bench):
    """Return a function that builds a trainer with dropout, on rows in their own order, one a micro-batch."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer

    def make(*mixins, rows=STEPS, bad=(), keep=None, source="", seed=0, guard=None, changes=None, **cell):
        cell = {"trainer": "plain", "adapter": "lora", **cell}
        bench = make_bench(**cell)
        tokenizer = bench.tokenizer()
        values = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20, "per_device_train_batch_size": 1}
        base = Trainer
        if cell["trainer"] == "sft":
            from trl import SFTTrainer

            base = SFTTrainer
            values["dataset_kwargs"] = {"skip_prepare_dataset": True}
        args = bench.arguments(**{**values, "max_steps": STEPS, **(changes or {})})
        args.seed = seed
        torch.manual_seed(seed)
        model = with_dropout(bench.prepare(bench.load()), cell["adapter"])

        class Ordered(*mixins, base):
            """Takes the rows one after the other."""

            def _get_train_sampler(self, *_):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        found = encoded_rows(bench, tokenizer, rows, bad)
        trainer = Ordered(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([found[i] for i in keep or range(rows)]),
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
            processing_class=tokenizer,
            **({} if guard is None else {"guard": guard}),
        )
        if source:
            SOURCES[source](model)
        return trainer

    return make


@pytest.fixture
def guarded(build):
    """Return a function that trains with the guard."""
    from ftdoctor.training.guard import NonFiniteGuard

    def run(*mixins, resume=None, **more):
        trainer = build(NonFiniteGuard, *mixins, **more)
        trainer.result = trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


class NeverSeen:
    """A Trainer to which bad batches do not exist: neither counted nor computed."""

    def _get_num_items_in_batch(self, batches, device):
        return super()._get_num_items_in_batch([batch for batch in batches if not is_bad(batch)], device)

    def training_step(self, model, inputs, *more):
        import torch

        return torch.tensor(0.0) if is_bad(inputs) else super().training_step(model, inputs, *more)


@pytest.fixture
def never_seen(build):
    """Return a function that trains without guard on all rows but the bad ones, in the same windows."""

    def run(*mixins, **more):
        trainer = build(NeverSeen, *mixins, **more)
        trainer.train()
        return trainer

    return run


def state(trainer):
    """Return all that a training run leaves behind: weights, optimizer, schedule, random numbers."""
    import torch

    return {
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad},
        "optimizer": trainer.optimizer.state_dict()["state"],
        "schedule": trainer.lr_scheduler.last_epoch,
        "random": torch.get_rng_state(),
    }


def differences(a, b, where=""):
    """Return the paths at which two nested states are not the same to the bit."""
    import torch

    if torch.is_tensor(a):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        both = {*a, *b}
        return [d for k in both for d in (differences(a[k], b[k], f"{where}.{k}") if k in a and k in b else [where])]
    return [] if a == b else [where]


def logged(trainer, key):
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_a_run_with_two_bad_steps_ends_as_one_that_never_saw_them(build, guarded, trainer, source, seed):
    """To the bit, with dropout: weights, optimizer, schedule and random numbers."""
    bad = [step - 1 for step in BAD_STEPS]
    ours = guarded(bad=bad, source=source, seed=seed, trainer=trainer)
    ours_state = state(ours)
    without = build(
        keep=[i for i in range(STEPS) if i not in bad], seed=seed, trainer=trainer, changes={"max_steps": STEPS - 2}
    )
    without.train()

    assert differences(ours_state, state(without)) == []
    assert [b.step for b in ours.guard.bad_batches] == list(BAD_STEPS)
    assert (ours.state.global_step, ours.guard.skipped_steps) == (STEPS, 2)


WINDOWS = {
    "first": [8],
    "within": [9],
    "last": [11],
    "two of one window": [9, 10],
    "first and last": [8, 11],
    "two windows": [9, 27],
}


@pytest.mark.parametrize("bad", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_rest_of_an_accumulation_window_is_trained_as_if_it_had_been_alone(
    guarded, never_seen, bad, source, adapter
):
    """Whichever of four micro-batches is bad; the others get the weight of a window that never held it."""
    values = {"rows": 32, "bad": bad, "source": source, "adapter": adapter}
    values["changes"] = {"gradient_accumulation_steps": 4}
    ours = guarded(**values)
    ours_state = state(ours)
    without = never_seen(**values)

    assert differences(ours_state, state(without)) == []
    assert [(b.step - 1) * 4 + b.micro_batch - 1 for b in ours.guard.bad_batches] == bad
    assert ours.guard.skipped_steps == 0
    assert logged(ours, "loss") == pytest.approx(logged(without, "loss"), rel=1e-6)


@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_what_else_is_logged_knows_nothing_of_a_bad_batch(guarded, never_seen, trainer):
    """TRL's entropy, accuracy and token count come from the micro-batches that stayed, each once."""
    values = {"rows": 32, "bad": [9, 15], "source": "activations", "trainer": trainer}
    values["changes"] = {"gradient_accumulation_steps": 4, "logging_steps": 4}
    ours, without = guarded(**values), never_seen(**values)
    ignored = {"skipped_batches", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}

    for mine, others in zip(ours.state.log_history, without.state.log_history, strict=True):
        assert set(mine) - ignored == set(others) - ignored
        assert {k: mine[k] for k in set(mine) - ignored} == pytest.approx(
            {k: others[k] for k in set(others) - ignored}, rel=1e-6
        )


def test_a_loss_that_the_trainer_divides_is_divided_by_what_is_left(guarded, never_seen):
    """Where the number of items is not counted, the mean of micro-batches is over the good ones."""

    class MeanOfMeans:
        model_accepts_loss_kwargs = property(lambda self: False, lambda self, value: None)

    class Three(MeanOfMeans):
        def training_step(self, model, inputs, *more):
            bad = any(is_bad(batch) for batch in self.window)
            self.current_gradient_accumulation_steps = 3 if bad else 4
            return super().training_step(model, inputs, *more)

        def get_batch_samples(self, *args):
            batches, items = super().get_batch_samples(*args)
            self.window = batches
            assert items is None
            return batches, items

    values = {"rows": 32, "bad": [9], "source": "activations", "changes": {"gradient_accumulation_steps": 4}}
    ours = state(guarded(MeanOfMeans, **values))

    assert differences(ours, state(never_seen(Three, **values))) == []


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "adafactor", "sgd")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_moves_in_a_step_of_which_nothing_is_left(build, guarded, optimizer):
    """Neither its weights nor its state, nor its count of steps."""
    changes = {"optim": optimizer, "weight_decay": 0.1, "gradient_accumulation_steps": 2}
    ours = guarded(rows=8, bad=[4, 5], source="activations", changes={**changes, "max_steps": 4})
    ours_state = state(ours)
    without = build(rows=8, keep=[0, 1, 2, 3, 6, 7], changes={**changes, "max_steps": 3})
    without.train()

    assert differences(ours_state, state(without)) == []
    assert ours.guard.skipped_steps == 1


def test_a_schedule_free_of_gradients_does_not_move_either(build, guarded):
    """An optimizer that counts its steps whether or not there are gradients is not called at all."""
    import torch

    class Counting(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    class WithCounting:
        def create_optimizer(self, *_):
            self.optimizer = self.counting = Counting(self.model.parameters(), lr=1e-3)
            return self.optimizer

    assert guarded(WithCounting, bad=[2], source="activations").counting.steps == STEPS - 1


@pytest.mark.parametrize("every", [1, 2, 8])
def test_the_logged_loss_is_the_mean_over_the_steps_that_were_taken(build, guarded, every):
    """An entry in which no step was taken has no loss; the mean of the run leaves the skipped steps out."""
    bad = [2, 3, 6]
    ours = guarded(bad=bad, source="activations", changes={"logging_steps": every})
    each = build(keep=[i for i in range(STEPS) if i not in bad], changes={"max_steps": STEPS - 3})
    mean = each.train().training_loss
    taken = dict(zip([i for i in range(STEPS) if i not in bad], logged(each, "loss").values(), strict=True))
    entries = {end: [taken[i] for i in range(end - every, end) if i in taken] for end in range(every, STEPS + 1, every)}

    assert logged(ours, "loss") == pytest.approx({end: sum(e) / len(e) for end, e in entries.items() if e})
    assert ours.result.training_loss == pytest.approx(mean)
    assert ours.state.log_history[-1]["train_loss"] == pytest.approx(mean)
    assert list(logged(ours, "skipped_batches").values())[-1] == 3


def test_a_skipped_step_has_no_gradient_norm(guarded):
    """Rather than a zero, which would look like a model that learns nothing."""
    ours = guarded(bad=[2], source="activations")

    assert set(logged(ours, "grad_norm")) == {1, 2, 4, 5, 6, 7, 8}


def test_running_statistics_forget_a_bad_batch(build, guarded):
    """A buffer that each forward moves is as if the batch had never passed through."""
    import torch

    class Centred(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, hidden):
            self.mean.mul_(0.9).add_(hidden.detach().mean())
            return self.inner(hidden)

    class WithMean:
        def train(self, *args, **kwargs):
            self.model.model.norm = Centred(self.model.model.norm)
            return super().train(*args, **kwargs)

    values = {"rows": 8, "adapter": "none", "changes": {"gradient_accumulation_steps": 4, "max_steps": 2}}
    ours = guarded(WithMean, bad=[5], source="activations", **values).model.model.norm.mean
    without = build(NeverSeen, WithMean, bad=[5], source="activations", **values)
    without.train()

    assert torch.equal(ours, without.model.model.norm.mean)


@pytest.mark.parametrize("checkpointing", ["reentrant", "non_reentrant"])
@pytest.mark.parametrize("source", SOURCES)
def test_it_holds_under_gradient_checkpointing(guarded, never_seen, checkpointing, source):
    """Where the forward is computed a second time in the backward."""
    values = {"rows": 32, "bad": [9], "source": source, "checkpointing": checkpointing}
    values["changes"] = {"gradient_accumulation_steps": 4}
    ours = state(guarded(**values))

    assert differences(ours, state(never_seen(**values))) == []


def test_it_holds_on_a_quantized_model(guarded, never_seen):
    """LoRA on nf4."""
    values = {"rows": 16, "bad": [9], "source": "activations", "quantization": "nf4"}
    values["changes"] = {"gradient_accumulation_steps": 4, "max_steps": 4}
    ours = state(guarded(**values))

    assert differences(ours, state(never_seen(**values))) == []


def test_gradients_that_an_epoch_has_left_over_stay(guarded, never_seen):
    """A stream that ends within a window hands its gradients on to the next epoch's first step."""

    class Streamed:
        def train(self, *args, **kwargs):
            self.train_dataset = self.train_dataset.to_iterable_dataset()
            return super().train(*args, **kwargs)

    values = {"rows": 6, "bad": [1], "source": "activations"}
    values["changes"] = {"gradient_accumulation_steps": 4, "max_steps": 3}
    ours = guarded(Streamed, **values)
    ours_state = state(ours)

    assert differences(ours_state, state(never_seen(Streamed, **values))) == []
    assert len(ours.guard.bad_batches) == 3


def test_a_run_that_is_resumed_after_a_skipped_step_ends_as_one_that_was_not_interrupted(guarded):
    """The skipped step counts as a position in the data, and as nothing else."""
    changes = {"save_strategy": "steps", "save_steps": 4}
    whole = guarded(bad=[2, 6], source="activations", changes=changes)
    whole_state = state(whole)
    checkpoint = f"{whole.args.output_dir}/checkpoint-4"
    resumed = guarded(bad=[2, 6], source="activations", changes=changes, resume=checkpoint)

    assert differences(state(resumed), whole_state) == []
    assert [b.step for b in resumed.guard.bad_batches] == [7]
    assert logged(resumed, "loss") == pytest.approx(logged(whole, "loss"))


def test_the_record_goes_on_where_a_training_is_resumed(guarded):
    """By the same trainer, from an earlier step; begun anew, it begins anew."""
    ours = guarded(bad=[2, 6], source="activations", changes={"save_strategy": "steps", "save_steps": 4})
    first, mean = ours.guard, ours.result.training_loss
    ours.train(resume_from_checkpoint=f"{ours.args.output_dir}/checkpoint-4")
    resumed = [b.step for b in ours.guard.bad_batches], ours.guard.skipped
    again = ours.train()

    assert resumed == ([3, 7], [3, 7])
    assert [b.step for b in ours.guard.bad_batches] == [b.step for b in first.bad_batches] == [3, 7]
    assert again.training_loss < mean, "it went on learning"


def test_a_run_that_breaks_down_in_a_skipped_step_leaves_accelerate_as_it_was(build):
    """Whoever raises."""
    from transformers import TrainerCallback

    from ftdoctor.training.guard import NonFiniteGuard

    class Raising(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    trainer = build(NonFiniteGuard, bad=[2], source="activations")
    trainer.add_callback(Raising())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()

    assert trainer.accelerator.sync_gradients
    assert not any(optimizer.step_was_skipped for optimizer in trainer.accelerator._optimizers)


def test_the_bad_batch_is_saved_with_what_is_known_about_it(guarded, tmp_path):
    """Its tensors, and beside them a JSON file with its place, its text and the module."""
    import torch

    from ftdoctor.training.guard import GuardSettings

    settings = GuardSettings(folder=str(tmp_path / "bad"))
    ours = guarded(rows=16, bad=[5], source="activations", guard=settings, changes={"gradient_accumulation_steps": 2})
    (bad,) = ours.guard.bad_batches
    known = json.loads((tmp_path / "bad" / "step-000003-micro-batch-2-process-0.json").read_text())
    batch = torch.load(bad.file)

    assert is_bad(batch)
    assert (known["step"], known["micro_batch"], known["epoch"], known["loss"]) == (3, 2, 0.25, "nan")
    assert known["kind"] == "loss"
    assert known["origin"] == "output of base_model.model.model.embed_tokens"
    assert known["text"] == [ours.processing_class.decode(batch["input_ids"][0])]


def test_a_replay_that_is_finite_says_so_and_the_gradient_is_named_all_the_same(guarded):
    """A fault that does not come back: the tensors in which it was seen are known."""
    (bad,) = guarded(bad=[2], source="gradient").guard.bad_batches

    assert bad.origin == ""
    assert "not reproduced" in str(bad)
    assert bad.kind == "gradient"
    assert math.isfinite(bad.loss)
    assert len(bad.gradients) == 1


def test_nothing_is_saved_where_it_is_not_wanted(guarded, tmp_path):
    """A bad batch is training data."""
    from ftdoctor.training.guard import GuardSettings

    ours = guarded(bad=[2], source="activations", guard=GuardSettings(folder=str(tmp_path / "bad"), save=False))

    assert ours.guard.bad_batches[0].file == ""
    assert not (tmp_path / "bad").exists()


def test_training_stops_when_an_epoch_has_more_faults_than_the_limit(build):
    """With step, module and file in one sentence, and no NaN in the weights."""
    from ftdoctor.errors import NonFiniteError
    from ftdoctor.training.guard import GuardSettings, NonFiniteGuard

    trainer = build(NonFiniteGuard, bad=[2, 4, 6], source="activations", guard=GuardSettings(limit=2))
    with pytest.raises(NonFiniteError, match=r"More than 2 batches of epoch 0.*step 7.*embed_tokens.*saved as"):
        trainer.train()

    assert trainer.guard.per_epoch == {0: 3}
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_limit_is_for_one_epoch(guarded):
    """A bad row comes back in each of them."""
    from ftdoctor.training.guard import GuardSettings

    ours = guarded(rows=4, bad=[1], source="activations", guard=GuardSettings(limit=1), changes={"max_steps": 12})

    assert ours.guard.per_epoch == {0: 1, 1: 1, 2: 1}


def test_weights_that_are_lost_already_are_named(build):
    """Every batch is bad then, and the way out is another one."""
    import torch

    from ftdoctor.errors import NonFiniteError
    from ftdoctor.training.guard import GuardSettings, NonFiniteGuard

    trainer = build(NonFiniteGuard, adapter="none", guard=GuardSettings(limit=0))
    with torch.no_grad():
        trainer.model.lm_head.weight[3] = math.nan
    with pytest.raises(NonFiniteError, match=r"lm_head.weight.*go back to a checkpoint"):
        trainer.train()


def test_nothing_of_it_is_left_when_the_training_is_over(guarded):
    """No hook, no callback, no mark in accelerate, no batch."""
    ours = guarded(bad=[2], source="activations")
    hooks = [h for m in ours.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]

    assert len(hooks) == 1, "the one that poisons"
    assert not [c for c in ours.callback_handler.callbacks if "guard" in type(c).__module__]
    assert not any(optimizer.step_was_skipped for optimizer in ours.accelerator._optimizers)
    assert ours.accelerator.sync_gradients
    assert ours._window is None


@pytest.mark.parametrize("way", ["deepspeed", "lomo"])
def test_what_cannot_be_guarded_is_refused(build, monkeypatch, way):
    """Before anything is trained."""
    from accelerate.utils import DistributedType

    from ftdoctor.errors import TrainingError
    from ftdoctor.training.guard import NonFiniteGuard

    trainer = build(NonFiniteGuard)
    if way == "deepspeed":
        monkeypatch.setitem(trainer.accelerator.state._shared_state, "distributed_type", DistributedType.DEEPSPEED)
    else:
        trainer.args.optim = "adalomo"
    with pytest.raises(TrainingError, match=f"(?i)cannot guard.*{way}"):
        trainer.train()


class TestLossScaling:
    """float16 with a GradScaler, to which an infinite gradient is nothing out of the order."""

    @pytest.fixture
    def half(self, monkeypatch):
        """Return a mixin that trains in float16 on a CPU, which accelerate offers only on a GPU."""
        import torch
        from accelerate.state import AcceleratorState

        class Half:
            scale = 2.0**16

            def create_accelerator_and_postprocess(self):
                super().create_accelerator_and_postprocess()
                self.accelerator.state._mixed_precision = "fp16"
                self.accelerator.native_amp = True
                self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=3)

        yield Half
        AcceleratorState._reset_state()

    def test_infinite_gradients_are_the_scalers_business(self, half, guarded, monkeypatch):
        """The scale comes down, and nothing is called a fault."""
        monkeypatch.setattr(half, "scale", 2.0**40)
        ours = guarded(half)

        assert ours.guard.bad_batches == []
        assert ours.accelerator.scaler.get_scale() < 2.0**40

    @pytest.mark.parametrize("scale", [2.0**16, 2.0**40])
    def test_a_loss_that_is_not_finite_is_a_fault(self, half, build, guarded, monkeypatch, scale):
        """It is left out without a trace, and the loss scale knows nothing of it."""
        monkeypatch.setattr(half, "scale", scale)
        ours = guarded(half, bad=[2, 6], source="activations")
        ours_state, scaler = state(ours), ours.accelerator.scaler.state_dict()
        without = build(half, keep=[0, 1, 3, 4, 5, 7], changes={"max_steps": STEPS - 2})
        without.train()

        assert differences(ours_state, state(without)) == []
        assert scaler == without.accelerator.scaler.state_dict()

    def test_a_gradient_that_is_infinite_at_the_smallest_scale_is_a_fault(self, half, guarded, monkeypatch):
        """The scale cannot cure it."""
        monkeypatch.setattr(half, "scale", 1.0)
        ours = guarded(half, bad=[2], source="gradient")

        assert [(b.step, b.kind) for b in ours.guard.bad_batches] == [(3, "gradient")]
