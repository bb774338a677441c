"""A float16 step whose gradients overflow is skipped, halves the loss scale, and leaves the weights as they were.

Why: the first steps of every fp16 run overflow while the loss scale is being found. If such a step were taken, all
weights would be NaN; if the scale were not halved, no step would ever be taken, and the loss would stay flat in
silence, for the learning rate's schedule goes on.

Cure: install another release of torch; train in bf16 where the device can, which needs no scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.watch import copy_of, undisturbed
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

SCALE = 2.0**60
"""So large that the first gradients overflow float16 (largest number 65504, smallest 6e-8) in any model."""
STEPS = 80
"""More than the halvings from `SCALE` down to one: by then a step must have been taken."""


@probe(area="numerics", needs=("torch", "transformers"), axes=("adapter", "device"))
def fp16_overflow(bench: Bench, check: Check) -> None:
    """Train under float16 autocast with a loss scale that is far too large."""
    import torch

    model = undisturbed(bench.trainable()).train()
    batch = bench.batch(bench.tokenizer(), bench.rows(2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    scaler = torch.amp.GradScaler(bench.device, init_scale=SCALE)
    before = copy_of(model)
    overflowed = _step(model, batch, optimizer, scaler)
    owner = torch.amp.GradScaler.step
    check.that(
        "gradients of the first step",
        overflowed > 0,
        f"{overflowed} values are not finite",
        "some are not finite",
        why="float16 cannot hold gradients scaled by 2**60",
        owner=torch.amp.GradScaler.scale,
    )
    check.equal("weights that the overflowing step has moved", _moved(before, model), 0, owner=owner)
    check.equal(
        "optimizer states after the overflowing step",
        len(optimizer.state),
        0,
        why="the optimizer must not have been called, or its moments would hold NaN",
        owner=owner,
    )
    check.equal(
        "loss scale after the overflowing step",
        scaler.get_scale(),
        SCALE / 2,
        why="backoff_factor is 0.5",
        owner=torch.amp.GradScaler.update,
    )
    taken = _until_taken(model, batch, optimizer, scaler)
    check.that(
        "a step is taken once the scale has come down",
        taken and _moved(before, model) > 0,
        f"scale {scaler.get_scale():g}, {_moved(before, model)} weights moved",
        "weights have moved",
        why=f"{STEPS} halvings bring any gradient into range",
        owner=torch.amp.GradScaler.update,
    )
    check.finite("weights after that step", list(copy_of(model).values()), owner=owner)


def _step(model: Any, batch: dict[str, Any], optimizer: Any, scaler: Any) -> int:
    """Take one step, and return how many gradients were not finite before the optimizer was called."""
    import torch

    optimizer.zero_grad()
    with torch.autocast(batch["input_ids"].device.type, dtype=torch.float16):
        loss = model(**batch).loss
    scaler.scale(loss).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    bad = sum(int((~torch.isfinite(g)).sum()) for g in gradients)
    scaler.step(optimizer)
    scaler.update()
    return bad


def _until_taken(model: Any, batch: dict[str, Any], optimizer: Any, scaler: Any) -> bool:
    return any(_step(model, batch, optimizer, scaler) == 0 for _ in range(STEPS))


def _moved(before: dict[str, Any], model: Any) -> int:
    return sum(int((value != before[name]).sum()) for name, value in copy_of(model).items())


@fp16_overflow.fault(
    "an overflowing step is taken",
    catches=(
        "weights that the overflowing step has moved",
        "optimizer states after the overflowing step",
        "weights after that step",
    ),
)
def step_taken(patch: Patch) -> None:
    """The optimizer is called whatever was found."""
    import torch

    def around(original: Any, self: Any, optimizer: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)

    patch.wrap(torch.amp.GradScaler, "_maybe_opt_step", around)


@fp16_overflow.fault(
    "the scale is never lowered",
    catches=("loss scale after the overflowing step", "a step is taken once the scale has come down"),
)
def scale_kept(patch: Patch) -> None:
    """Every step overflows and is skipped: the run learns nothing."""
    import torch

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, new_scale=self.get_scale())

    patch.wrap(torch.amp.GradScaler, "update", around)


@fp16_overflow.fault("the loss is not scaled", catches=("gradients of the first step",))
def not_scaled(patch: Patch) -> None:
    """Small gradients vanish in float16 instead."""
    import torch

    def around(original: Any, self: Any, outputs: Any) -> Any:
        original(self, outputs)
        return outputs

    patch.wrap(torch.amp.GradScaler, "scale", around)
