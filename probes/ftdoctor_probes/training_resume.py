"""A run resumed from a checkpoint goes on as if it had never stopped: same losses, weights and learning rates.

Why: a resumed run that starts with fresh optimizer moments, a schedule from the beginning, rows that it has already
seen or other dropout draws still trains, and its loss curve looks healthy after a small bump. Results of resumed
and uninterrupted runs cannot be compared, and nobody knows it.

Full fine-tunes of a mixture of experts are hit hardest: transformers 5 saves each expert under its own name, and
resuming looks for the fused tensors, finds none, warns, and leaves all experts as the base model has them.

Cure: resume with `trainer.train(resume_from_checkpoint=...)` and the same arguments (max_steps and epochs too, for
the schedule is computed from them), number of processes and versions; keep optimizer.pt, scheduler.pt and
rng_state.pth with the weights. Where tensors were not restored, build the trainer with the model loaded from the
checkpoint's folder. Where only dtypes changed, the run goes on at another precision: cast them back in a callback's
`on_train_begin`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import rounding, watch
from ftdoctor.bench.tensors import some
from ftdoctor.bench.watch import copy_of
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEPS, SAVED, RATE = 4, 2, 1e-3


@probe(
    area="training",
    needs=("transformers", "accelerate"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "adapter", "device"),
    references=("huggingface/peft#2421",),
)
def training_resume(bench: Bench, check: Check) -> None:
    """Run four steps with a checkpoint after two; resume from it with a new trainer; compare steps 3 and 4."""
    from transformers import Trainer

    whole, saved = _run(bench, None)
    resumed, restored = _run(bench, Path(whole.args.output_dir) / f"checkpoint-{SAVED}")
    for label, trainer in (("uninterrupted", whole), (f"resumed after step {SAVED}", resumed)):
        losses = watch.logged(trainer, "loss")
        check.curve("loss", list(losses), list(losses.values()), label=label, unit="nats a token")
    _check_restored(check, saved, restored, resumed.model)
    bound, why = _bound(bench, whole)
    for name, key, scale in (("losses", "loss", saved.loss), ("learning rates", "learning_rate", RATE)):
        check.close(
            f"{name} after resuming",
            _late(resumed, key),
            _late(whole, key),
            atol=bound * scale,
            why=why,
            owner=Trainer.train,
        )
    check.at_most(
        "mean difference of the trained weights at the end",
        _difference(whole.model, resumed.model),
        2 * RATE * (STEPS - SAVED) * bound,
        why=f"{why}; an entry whose gradient is below that rounding may move by the rate in either direction",
        owner=Trainer.train,
    )


def _check_restored(check: Check, saved: Any, restored: Any, model: Any) -> None:
    """Compare the weights at the moment of saving with those at the start of the resumed run."""
    from transformers import Trainer

    before, after = saved.weights[SAVED], restored.weights[0]
    lost = [n for n in before if n not in after or not (before[n].double() == after[n].double()).all()]
    check.equal(
        "trained tensors that were not restored",
        some(lost),
        "none",
        why="a checkpoint stores every bit",
        owner=getattr(Trainer, "_load_from_checkpoint", Trainer.train),
    )
    dtypes = {n: f"{before[n].dtype} -> {after[n].dtype}" for n in before if n not in lost}
    check.equal(
        "dtypes of restored tensors that changed",
        sorted({change for change in dtypes.values() if len(set(change.split(" -> "))) > 1}),
        [],
        owner=getattr(model, "load_adapter", Trainer.train),
    )


def _run(bench: Bench, checkpoint: Path | None) -> tuple[Any, Any]:
    """Train to the last step, from the checkpoint where one is given; return the trainer and what was kept."""
    arguments = bench.arguments(
        max_steps=STEPS, learning_rate=RATE, lr_scheduler_type="linear", save_strategy="steps", save_steps=SAVED
    )
    keeper = _keeper()
    model = _with_dropout(bench.trainable())
    trainer = bench.trainer(model, bench.tokenizer(), arguments, callbacks=[keeper])
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    keeper.loss = watch.logged(trainer, "loss")[STEPS]
    return trainer, keeper


def _keeper() -> Any:
    """Return a callback whose `weights` maps step to the trained tensors when it was saved, 0 to the start."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights: dict[int, dict[str, Any]] = {}
            self.loss = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.weights[0] = copy_of(model)

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.weights[state.global_step] = copy_of(model)

    return Keeper()


def _with_dropout(model: Any) -> Any:
    """Switch attention dropout on, so that the state of the random generator matters."""
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    return model


def _late(trainer: Any, key: str) -> list[float]:
    return [value for step, value in watch.logged(trainer, key).items() if step > SAVED]


def _bound(bench: Bench, trainer: Any) -> tuple[float, str]:
    """Return the relative difference that is allowed, and why."""
    if bench.device == "cpu":
        return 0.0, "one thread on a CPU repeats bit for bit"
    return rounding.relative(trainer.model, rounding.coarsest(bench, trainer.model))


def _difference(a: Any, b: Any) -> float:
    left, right = (copy_of(m) for m in (a, b))
    if left.keys() != right.keys():
        return float("nan")
    total = sum(float((left[n].double() - right[n].double()).abs().sum()) for n in left)
    count: int = sum(p.numel() for p in left.values())
    return total / count


@training_resume.fault(
    "optimizer and schedule start afresh",
    catches=("learning rates after resuming", "mean difference of the trained weights at the end"),
)
def optimizer_fresh(patch: Patch) -> None:
    """Moments are zero and the schedule begins at its first step."""
    from transformers import Trainer

    patch.wrap(Trainer, "_load_optimizer_and_scheduler", lambda original, *args: None)


@training_resume.fault("the random state is not restored", catches=("losses after resuming",))
def random_state_lost(patch: Patch) -> None:
    """Dropout draws other masks."""
    from transformers import Trainer

    patch.wrap(Trainer, "_load_rng_state", lambda original, *args: None)


@training_resume.fault(
    "the rows already seen are trained again",
    catches=("losses after resuming", "mean difference of the trained weights at the end"),
)
def rows_repeated(patch: Patch) -> None:
    """The epoch begins anew."""
    import transformers.trainer

    patch.wrap(transformers.trainer, "skip_first_batches", lambda original, loader, number: loader)


@training_resume.fault("half of the checkpoint is not loaded", catches=("trained tensors that were not restored",))
def half_loaded(patch: Patch) -> None:
    """The second layer keeps the weights it was built with."""
    import peft.peft_model

    def around(original: Any, model: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        kept = {name: value for name, value in state.items() if ".layers.1." not in name}
        return original(model, kept, *args, **kwargs)

    patch.wrap(peft.peft_model, "set_peft_model_state_dict", around)


@training_resume.fault("the adapter comes back in another dtype", catches=("dtypes of restored tensors that changed",))
def dtype_changed(patch: Patch) -> None:
    """Loading widens to float64 what was trained in float32."""
    from peft import PeftModel

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.double()
        return result

    patch.wrap(PeftModel, "load_adapter", around)
