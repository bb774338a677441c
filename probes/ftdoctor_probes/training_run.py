"""A training run lowers the loss by changing its adapter, all of its adapter, and nothing but its adapter.

Why: a run in which part of the adapter gets no gradient, is missing from the optimizer, or in which frozen weights
drift, ends with exit status 0 and a loss curve that looks plausible. Common ways there: freezing after the adapter
was added, checkpointing without gradients of the inputs, an optimizer built before the adapter.

Cure: prepare a quantized model (`prepare_model_for_kbit_training`) before `get_peft_model`, never after it; build
the trainer last; load in bfloat16 or float32 when modules_to_save copies a module of a float16 model, or cast the
copy to float32; with checkpointing call `model.enable_input_require_grads()` or use
`gradient_checkpointing_kwargs={"use_reentrant": False}`. If the loss alone does not fall, look at the learning rate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import precision, watch
from ftdoctor.bench.tensors import frozen_digests, some
from ftdoctor.bench.watch import copy_of
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEPS, ROWS, RATE = 6, 8, 5e-3
LOGGED = 1e-4
"""Older trainers round the logged loss to four decimals."""


@probe(
    area="training",
    needs=("transformers", "accelerate"),
    axes=(
        *("family", "trainer", "quantization", "dtype", "mixed_precision"),
        *("adapter", "checkpointing", "device"),
    ),
    references=(
        "huggingface/peft#1142",
        "huggingface/transformers#42489",
        "huggingface/trl#2486",
        "huggingface/peft#341",
    ),
)
def training_run(bench: Bench, check: Check) -> None:
    """Train a few steps on all of a small set; look at gradients, optimizer, every tensor, and the loss."""
    recorder = watch.gradient_recorder()
    arguments = bench.arguments(max_steps=STEPS, per_device_train_batch_size=ROWS, learning_rate=RATE)
    trainer = bench.trainer(bench.trainable(), bench.tokenizer(), arguments, rows=ROWS, callbacks=[recorder])
    model = trainer.model
    before, weights, calls = frozen_digests(model), copy_of(model), _watch_experts(model)
    trainer.train()

    _check_tensors(check, model, before, weights)
    _check_optimization(check, trainer, recorder.steps[-1], calls)
    _check_loss(check, trainer)


def _check_tensors(check: Check, model: Any, before: dict[str, str], weights: dict[str, Any]) -> None:
    import torch
    from transformers import Trainer

    trained, wanted = set(weights), _adapter(model)
    check.equal(
        "tensors that are trained against the plan",
        f"not planned: {some(trained - wanted)}; left out: {some(wanted - trained)}",
        "not planned: none; left out: none",
        owner=type(model).__init__,
    )
    half = [n for n, p in model.named_parameters() if n in trained and p.dtype == torch.float16]
    check.equal(
        "trained tensors in float16",
        some(half),
        "none",
        why="squares of gradients below 2**-12 are zero in float16, and Adam divides by their mean",
        owner=_saved_copies() if any("modules_to_save" in n for n in half) else type(model).__init__,
    )
    after = frozen_digests(model)
    check.equal(
        "frozen tensors that changed",
        some(k for k in after if after[k] != before.get(k)),
        "none",
        why="bit for bit, the stored form of quantized weights included",
        owner=Trainer.training_step,
    )
    still = [n for n, p in model.named_parameters() if n in trained and _stands_still(p, weights[n])]
    check.equal(
        "trained tensors that did not change",
        some(still),
        "none",
        why="Adam moves an entry by about the learning rate, here more than half a spacing of the dtype",
        owner=Trainer.training_step,
    )


def _check_optimization(check: Check, trainer: Any, gradients: dict[str, Any], experts: dict[str, int]) -> None:
    import transformers

    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    idle = {name for name, calls in experts.items() if calls < max(experts.values())}
    due = [n for n in trained if not any(n.startswith(f"{name}.") for name in idle)]
    empty = [n for n in due if n not in gradients or not gradients[n].isfinite().all() or not gradients[n].any()]
    check.equal(
        "trained tensors without a gradient",
        some(empty),
        "none",
        why=f"of step {STEPS}: in the first step lora_A has none, because lora_B is still zero; experts that some "
        "step sent no token to are left out",
        owner=type(trainer.model).forward,
    )
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    missing = [n for n, p in trained.items() if id(p) not in held]
    check.equal(
        "trained tensors that the optimizer lacks",
        some(missing),
        "none",
        owner=transformers.Trainer.create_optimizer,
    )


def _check_loss(check: Check, trainer: Any) -> None:
    from transformers import Trainer

    losses, norms = (list(watch.logged(trainer, key).values()) for key in ("loss", "grad_norm"))
    check.at_least(
        "fall of the loss",
        losses[0] - losses[-1],
        RATE * sum(n for n in norms[:-1] if math.isfinite(n)) + 2 * LOGGED,
        why="Adam moves each entry by about the rate against its gradient: to first order the same rows lose rate x "
        "sum |g| a step, and sum |g| is never below the norm of g (not finite: a skipped step); "
        "and twice the rounding of the log",
        owner=Trainer.train,
    )
    check.note("loss by step", losses)
    for name, key, unit in (("loss", "loss", "nats a token"), ("gradient norm", "grad_norm", "")):
        log = watch.logged(trainer, key)
        check.curve(name, list(log), list(log.values()), unit=unit)


def _adapter(model: Any) -> set[str]:
    """Return the names that should be trained: LoRA's tensors and copies of modules, or all without an adapter."""
    names = {name for name, _ in model.named_parameters()}
    marks = ("lora_", "modules_to_save")
    return {n for n in names if any(m in n for m in marks)} if hasattr(model, "peft_config") else names


def _saved_copies() -> Any:
    """Return the class of peft that copies a module to train it, and keeps its dtype."""
    from peft.utils import ModulesToSaveWrapper

    return ModulesToSaveWrapper


def _stands_still(now: Any, before: Any) -> bool:
    spacing = float(before.abs().min()) * precision.unit_roundoff(before.dtype)
    return spacing < RATE and bool((now.detach() == before).all())


def _watch_experts(model: Any) -> dict[str, int]:
    """Count for each expert that is a module of its own how often it is called; one without tokens is not."""
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name, module in model.named_modules():
        if name.split(".")[-2:-1] == ["experts"] and name.rsplit(".", 1)[-1].isdigit():
            calls[name] = 0
            module.register_forward_pre_hook(count(name))
    return calls


@training_run.fault(
    "lora_A is cut from the graph",
    catches=("trained tensors without a gradient", "trained tensors that did not change"),
)
def graph_cut(patch: Patch) -> None:
    """The loss still falls, by lora_B alone."""
    from peft.tuners.lora import LoraLayer

    def around(original: Any, self: Any, name: str, *args: Any, **kwargs: Any) -> None:
        original(self, name, *args, **kwargs)
        self.lora_A[name].register_forward_hook(lambda module, inputs, output: output.detach())

    patch.wrap(LoraLayer, "update_layer", around)


@training_run.fault(
    "the adapter keeps the dtype of its base",
    catches=("trained tensors in float16",),
    cell={"dtype": "float16"},
)
def adapter_in_half(patch: Patch) -> None:
    """Nothing is cast to float32 when the adapter is added."""
    from peft.tuners.tuners_utils import BaseTuner

    patch.replace(BaseTuner, "_cast_adapter_dtype", lambda self, *args, **kwargs: None)


@training_run.fault("the optimizer goes uphill", catches=("fall of the loss",))
def uphill(patch: Patch) -> None:
    """The sign of every update is wrong."""
    import torch

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "maximize": True})

    patch.wrap(torch.optim.AdamW, "__init__", around)


@training_run.fault(
    "the optimizer is built from half of the tensors", catches=("trained tensors that the optimizer lacks",)
)
def optimizer_halved(patch: Patch) -> None:
    """The first group of the optimizer loses every second tensor."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = original(self, *args, **kwargs)
        group = optimizer.param_groups[0]
        group["params"] = group["params"][::2]
        return optimizer

    patch.wrap(Trainer, "create_optimizer", around)


@training_run.fault(
    "adding an adapter leaves the base trainable", catches=("tensors that are trained against the plan",)
)
def base_not_frozen(patch: Patch) -> None:
    """Nothing is frozen: a full fine-tune under the name of an adapter."""
    from peft.tuners.lora import LoraModel

    patch.replace(LoraModel, "_mark_only_adapters_as_trainable", lambda self, model: None)


@training_run.fault("a training step writes into a frozen weight", catches=("frozen tensors that changed",))
def frozen_drifts(patch: Patch) -> None:
    """One entry of the embedding moves by the least amount there is."""
    import torch
    from transformers import Trainer

    def around(original: Any, self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        entry = model.get_input_embeddings().weight.data[:1, :1]
        entry.copy_(torch.nextafter(entry, torch.ones_like(entry)))
        return original(self, model, *args, **kwargs)

    patch.wrap(Trainer, "training_step", around)
