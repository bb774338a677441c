"""Eyes on a training run: what a trainer's step holds at the moment before the optimizer uses it."""

from __future__ import annotations

from typing import Any


def gradient_recorder() -> Any:
    """Return a trainer callback whose `steps` is a list of name to gradient, one entry an optimizer step."""
    from transformers import TrainerCallback

    class GradientRecorder(TrainerCallback):  # type: ignore[misc]
        """Keeps a copy of all gradients just before each optimizer step."""

        def __init__(self) -> None:
            self.steps: list[dict[str, Any]] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Copy the gradients."""
            model = kwargs["model"]
            self.steps.append(
                {
                    name: parameter.grad.detach().clone()
                    for name, parameter in model.named_parameters()
                    if parameter.grad is not None
                }
            )

    return GradientRecorder()


def copy_of(model: Any) -> dict[str, Any]:
    """Return name to a copy of each parameter that is trained."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def logged(trainer: Any, key: str) -> dict[int, float]:
    """Return step to the value that the trainer has logged under this key, in the order of the log."""
    return {entry["step"]: float(entry[key]) for entry in trainer.state.log_history if key in entry}


def undisturbed(model: Any) -> Any:
    """Switch off what makes the loss more than a function of weights and batch, and return the model.

    That is every dropout, and the extra loss for the balance of experts, which TRL adds for a mixture of experts.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    config = model.config.get_text_config()
    if hasattr(config, "router_aux_loss_coef"):
        config.router_aux_loss_coef = 0.0
        config.output_router_logits = False
    return model
