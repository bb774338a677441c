"""A NaN or an infinity that arises in a training run shows in the trainer's log at the step where it began.

Why: by default the Trainer's log replaces a loss that is not finite by the mean of those before, or by 0.0
(`logging_nan_inf_filter`), so that a run which is lost looks healthy. What is left to see is `grad_norm`; and with
the filter off the loss itself must tell, at the right step, or the cause is looked for in the wrong batch.

Cure: set `logging_nan_inf_filter=False` with `logging_steps=1` while you look for the step, and stop a run whose
`grad_norm` is not finite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ftdoctor.bench.watch import logged
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

STEPS = 3
BAD = 2
"""The step at which the run is spoilt; the first steps are healthy, so that the optimizer has a state."""
SOURCES = {
    "activations": (math.nan, BAD),
    "gradient": (math.inf, BAD),
    "weights": (math.nan, BAD),
    "optimizer state": (math.inf, BAD + 1),
}
"""What is spoilt, with which number, and the step in whose numbers it shows first: the optimizer's state is used after
the gradient of its own step was logged."""


@probe(
    area="numerics",
    needs=("transformers", "datasets"),
    axes=("trainer", "mixed_precision", "adapter", "device"),
    references=("huggingface/transformers#13619", "huggingface/trl#6702"),
)
def nonfinite_visible(bench: Bench, check: Check) -> None:
    """Spoil a run in four places, and read its log."""
    from transformers import Trainer

    data = None
    healthy, data = _log(bench, data)
    check.equal(
        "steps of a healthy run that are logged with a number that is not finite",
        sorted(step for step, numbers in healthy.items() if not all(map(math.isfinite, numbers.values()))),
        [],
        owner=Trainer.log,
    )
    _draw(check, "healthy", healthy)
    for source, (number, step) in SOURCES.items():
        spoilt, _ = _log(bench, data, source=source, number=number)
        _draw(check, f"{number} in the {source} at step {BAD}", spoilt)
        check.equal(
            f"first step with a trace of {number} in the {source}",
            next((s for s, n in spoilt.items() if not all(map(math.isfinite, n.values()))), None),
            step,
            why=f"it was put there at step {BAD}; logging_nan_inf_filter=False",
            owner=Trainer.log,
        )
        if source != "gradient":
            check.that(
                f"logged loss after {number} in the {source}",
                not math.isfinite(spoilt[step]["loss"]),
                spoilt[step]["loss"],
                "not finite",
                why=f"the forward of step {step} uses it; logging_nan_inf_filter=False",
                owner=Trainer.log,
            )
    hidden, _ = _log(bench, data, source="weights", number=math.nan, logging_nan_inf_filter=True)
    check.note("log with the default filter of a run with NaN weights", hidden)


def _draw(check: Check, label: str, log: dict[int, dict[str, float]]) -> None:
    for name, key in (("logged loss", "loss"), ("logged gradient norm", "grad_norm")):
        check.curve(name, list(log), [numbers[key] for numbers in log.values()], label=label)


def _log(
    bench: Bench, data: Any, source: str = "", number: float = 0.0, **changes: Any
) -> tuple[dict[int, dict[str, float]], Any]:
    """Return step to logged loss and gradient norm of a short run, and its prepared rows for the next one."""
    import torch

    torch.manual_seed(bench.settings.seed)
    args = bench.arguments(**{"max_steps": STEPS, "logging_nan_inf_filter": False, **changes})
    model = bench.trainable()
    more: dict[str, Any] = {} if data is None else {"train_dataset": data}
    trainer = bench.trainer(model, bench.tokenizer(), args, rows=4, **more)
    if source:
        trainer.add_callback(_spoiler(trainer, source, number))
    trainer.train()
    losses, norms = logged(trainer, "loss"), logged(trainer, "grad_norm")
    log = {step: {"loss": loss, "grad_norm": norms[step]} for step, loss in losses.items()}
    return log, trainer.train_dataset


def _spoiler(trainer: Any, source: str, number: float) -> Any:
    """Return a callback that puts the number into the run at the beginning of step `BAD`."""
    import torch
    from transformers import TrainerCallback

    class Spoiler(TrainerCallback):  # type: ignore[misc]
        """Spoils one step."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Spoil the step if it is its turn."""
            if state.global_step != BAD - 1:
                return
            model, optimizer = kwargs["model"], kwargs["optimizer"]
            parameter = next(p for p in model.parameters() if p.requires_grad)
            if source == "activations":
                _once(model.get_input_embeddings().register_forward_hook, lambda *seen: seen[-1] * number)
            elif source == "gradient":
                _once(parameter.register_hook, lambda gradient: gradient + number)
            elif source == "weights":
                with torch.no_grad():
                    parameter.fill_(number)
            else:
                optimizer.state[parameter]["exp_avg"].fill_(number)

    return Spoiler()


def _once(register: Any, change: Any) -> None:
    """Register a hook that removes itself when it is called."""

    def hook(*seen: Any) -> Any:
        handle.remove()
        return change(*seen)

    handle: Any = register(hook)


def _log_changed(patch: Patch, change: Any) -> None:
    """Let a function change what the trainer of the cell writes into its log."""
    from transformers import Trainer

    def around(original: Any, self: Any, logs: Any, *args: Any, **kwargs: Any) -> Any:
        change(self, logs)
        return original(self, logs, *args, **kwargs)

    patch.wrap(Trainer, "log", around)


@nonfinite_visible.fault(
    "numbers that are not finite are logged as zero",
    catches=(
        *(f"first step with a trace of {number} in the {source}" for source, (number, _) in SOURCES.items()),
        *(f"logged loss after {n} in the {s}" for s, (n, _) in SOURCES.items() if s != "gradient"),
    ),
)
def logged_as_zero(patch: Patch) -> None:
    """The filter of the loss, applied to everything and not to be switched off."""

    def change(trainer: Any, logs: dict[str, float]) -> None:
        logs.update({key: 0.0 for key, value in logs.items() if not math.isfinite(value)})

    _log_changed(patch, change)


@nonfinite_visible.fault(
    "the first step is logged as NaN",
    catches=("steps of a healthy run that are logged with a number that is not finite",),
)
def first_step_nan(patch: Patch) -> None:
    """A mean over an empty window."""

    def change(trainer: Any, logs: dict[str, float]) -> None:
        if trainer.state.global_step == 1 and "grad_norm" in logs:
            logs["grad_norm"] = math.nan

    _log_changed(patch, change)


@nonfinite_visible.fault(
    "the log is one step behind",
    catches=tuple(f"first step with a trace of {n} in the {s}" for s, (n, _) in SOURCES.items()),
)
def one_step_behind(patch: Patch) -> None:
    """Each entry holds the numbers of the step before."""

    def change(trainer: Any, logs: dict[str, float]) -> None:
        if "grad_norm" in logs:
            before = trainer.__dict__.get("_held", {"loss": logs["loss"], "grad_norm": logs["grad_norm"]})
            trainer._held = {key: logs[key] for key in before}
            logs.update(before)

    _log_changed(patch, change)


@nonfinite_visible.fault(
    "the filter of the loss cannot be switched off",
    catches=tuple(f"logged loss after {n} in the {s}" for s, (n, _) in SOURCES.items() if s != "gradient"),
    cell={"trainer": "sft"},
)
def filter_always_on(patch: Patch) -> None:
    """The loss of a spoilt step is replaced by zero, while the norm of its gradient tells the truth."""
    from transformers import Trainer

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs).nan_to_num(0.0, 0.0, 0.0)

    patch.wrap(Trainer, "training_step", around)
