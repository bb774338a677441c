"""Out of memory costs a smaller micro-batch and nothing else: the same examples, the same loss, no step twice."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from ftdoctor.errors import TrainingError

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
ROWS = 20
STEPS = 5


@pytest.fixture
def plan():
    from ftdoctor.training.batch_plan import BatchPlan

    return BatchPlan


@pytest.mark.parametrize(
    ("before", "after"), [((2, 4), (1, 8)), ((8, 1), (4, 2)), ((6, 2), (3, 4)), ((3, 2), (1, 6)), ((9, 1), (3, 3))]
)
def test_half_the_batch_is_twice_the_accumulation(plan, before, after):
    """And an odd batch falls to a divisor, so that the effective batch stays what it was."""
    assert plan(*before).smaller() == plan(*after)
    assert plan(*before).effective == plan(*after).effective


def test_one_row_cannot_be_halved(plan):
    """The error says what else there is."""
    with pytest.raises(TrainingError, match=r"one row.*max_length"):
        plan(1, 8).smaller()


def test_an_estimate_chooses_the_largest_batch_that_fits(plan):
    """Or one row, or what was asked where nothing is known."""
    from ftdoctor.training.batch_plan import fitting

    assert fitting(plan(8, 2), lambda rows: rows * 100, 450) == plan(4, 4)
    assert fitting(plan(8, 2), lambda rows: rows * 100, 10) == plan(1, 16)
    assert fitting(plan(8, 2), lambda rows: rows * 100, 0) == plan(8, 2)


class Memory:
    """Refuses micro-batches of more rows than fit, as torch does, from some forward pass on."""

    def __init__(self, model, fits, from_step, state):
        self.fits, self.from_step, self.state = fits, from_step, state
        self.seen = []
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        import torch

        rows = kwargs["input_ids"].shape[0]
        if module.training and self.state().global_step >= self.from_step and rows > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.24 GiB.")
        if module.training:
            self.seen.append((self.state().global_step, [tuple(r) for r in kwargs["input_ids"].tolist()]))


def run(make_bench, batch, accumulation, *, fits=99, from_step=0, within=True, adapter="lora", setup=None, **changes):
    """Train on rows of different lengths, and return what was seen, logged and learned."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq

    from ftdoctor.training.batch_plan import train_within_memory

    bench = make_bench(adapter=adapter, trainer="plain")
    tokenizer = bench.tokenizer()
    rows = [bench.encode(tokenizer, f"row {i}" + " again" * (i % 5), "yes " * (1 + i % 4)) for i in range(ROWS)]
    torch.manual_seed(0)
    trainer = bench.trainer(
        bench.trainable(),
        tokenizer,
        bench.arguments(
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=STEPS, **changes
        ),
        train_dataset=Dataset.from_list(rows),
        # All batches as wide, so that a row looks the same in each of them.
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding="max_length", max_length=64),
    )
    memory = Memory(trainer.model, fits, from_step, lambda: trainer.state)
    if setup:
        setup(trainer)
    trained = train_within_memory(trainer) if within else trainer.train()
    steps = {}
    for step, examples in memory.seen:
        steps.setdefault(step, []).extend(examples)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    return trained, steps, losses, weights, trainer


@pytest.mark.parametrize("from_step", [0, 2])
def test_the_same_examples_losses_and_weights_as_if_it_had_been_small_from_the_start(make_bench, from_step):
    """2 x 4 becomes 1 x 8: compared with an undisturbed run, number by number."""
    trained, steps, losses, weights, _ = run(make_bench, 2, 4, fits=1, from_step=from_step)
    _, wanted_steps, wanted_losses, wanted_weights, _ = run(make_bench, 1, 8, within=False)

    assert (trained.plan.batch_size, trained.plan.accumulation) == (1, 8)
    assert [(s.step, s.where) for s in trained.shrunk] == [(from_step, "step")]
    assert {s: sorted(rows) for s, rows in steps.items()} == {s: sorted(rows) for s, rows in wanted_steps.items()}
    # Sums of 8 rows in another order: float32 rounding through 5 steps at a learning rate of 1e-3.
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    for name, wanted in wanted_weights.items():
        assert (weights[name] - wanted).abs().max() <= 1e-5, name


def test_no_step_is_taken_twice_and_none_is_lost(make_bench):
    """The state goes on from the last whole step."""
    trained, steps, losses, _, trainer = run(make_bench, 4, 2, fits=1, from_step=3)

    assert trainer.state.global_step == STEPS
    assert len(losses) == STEPS
    assert {len(rows) for rows in steps.values()} == {8, 4}  # 20 rows: two full steps and a half one an epoch
    assert [str(s.after) for s in trained.shrunk] == ["2 x 4", "1 x 8"]
    assert "going on from step 3 with 1 x 8 instead of 2 x 4" in str(trained.shrunk[1])


def test_one_row_that_does_not_fit_is_an_error_with_a_way_out(make_bench):
    """Not a loop."""
    with pytest.raises(TrainingError, match="one row"):
        run(make_bench, 2, 4, fits=0)


def test_other_errors_pass_through(make_bench):
    """Only memory is a reason to go on."""

    def break_it(trainer):
        trainer.model.register_forward_pre_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(make_bench, 2, 4, setup=break_it)


def test_a_first_optimizer_step_that_fails_half_way_is_undone(make_bench):
    """It allocates the optimizer's state when part of the weights may have changed already."""
    import torch

    failures = []

    def fail_once(trainer):
        original = trainer.create_optimizer

        def create(*args, **kwargs):
            optimizer = original(*args, **kwargs)
            step = optimizer.step

            def failing(self, *a, **k):
                if not failures:
                    failures.append(1)
                    with torch.no_grad():
                        optimizer.param_groups[0]["params"][0].add_(1.0)
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return step(*a, **k)

            optimizer.step = types.MethodType(failing, optimizer)
            return optimizer

        trainer.create_optimizer = create

    trained, _, losses, weights, _ = run(make_bench, 2, 4, setup=fail_once)
    _, _, wanted_losses, wanted, _ = run(make_bench, 1, 8, within=False)

    assert [s.where for s in trained.shrunk] == ["optimizer"]
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    assert all((weights[n] - w).abs().max() <= 1e-5 for n, w in wanted.items())


def test_what_cannot_be_restarted_is_refused_before_it_starts(make_bench):
    """In one sentence each."""
    for change, said in (
        ({"auto_find_batch_size": True}, "effective batch"),
        ({"save_only_model": True}, "save_only_model"),
    ):
        with pytest.raises(TrainingError, match=said):
            run(make_bench, 2, 4, **change)


def test_the_callback_is_gone_afterwards(make_bench):
    """On the error path too."""
    kept = []
    with pytest.raises(TrainingError):
        run(make_bench, 2, 4, fits=0, setup=kept.append)

    assert "_Watch" not in {type(c).__name__ for c in kept[0].callback_handler.callbacks}


REAL = """
import json, resource, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator
from ftdoctor.training.batch_plan import train_within_memory
torch.set_num_threads(1)
torch.manual_seed(0)
config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64000)
rows = [{"input_ids": [i % 7] * 512, "labels": [i % 5] * 512} for i in range(8)]
trainer = Trainer(
    model=LlamaForCausalLM(config),
    args=TrainingArguments(sys.argv[1], per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=2,
        report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", dataloader_pin_memory=False),
    train_dataset=Dataset.from_list(rows), data_collator=default_data_collator,
)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
# Logits of one row are 125 MiB; a step of one row needs about four times that, a step of four rows four times more.
resource.setrlimit(resource.RLIMIT_AS, (used + 1200 * 2**20,) * 2)
trained = train_within_memory(trainer)
print(json.dumps([str(s) for s in trained.shrunk] + [str(trained.plan), trainer.state.global_step]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux")
def test_it_survives_memory_that_really_runs_out(tmp_path):
    """torch's own allocator refuses, in a process whose address space is limited."""
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )

    assert done.returncode == 0, done.stderr[-2000:]
    *events, plan, steps = json.loads(done.stdout.splitlines()[-1])
    assert len(events) >= 1
    assert plan in ("1 x 4", "2 x 2")
    assert steps == 2
