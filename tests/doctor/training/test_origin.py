"""One replay names the place where the first number that is not finite appears."""

from __future__ import annotations

import math

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]


def spoil_output(name):
    """Let a module return NaN."""

    def spoil(model):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *seen: seen[-1] * math.nan)

    return spoil


def spoil_backward(name):
    """Let a module return what it should, and pass NaN back to its input."""
    import torch

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    def spoil(model):
        module = model.get_submodule(name)
        original = module.forward
        module.forward = lambda value: original(Broken.apply(value))

    return spoil


def spoil_parameter(name):
    """Let the gradient of one weight be NaN."""

    def spoil(model):
        model.get_parameter(name).register_hook(lambda gradient: gradient * math.nan)

    return spoil


def spoil_weight(name):
    """Put a NaN into a weight."""
    import torch

    def spoil(model):
        with torch.no_grad():
            model.get_parameter(name)[0] = math.nan

    return spoil


def spoil_code(name):
    """Let a module spoil its input itself before it hands it to its parts."""

    def spoil(model):
        module = model.get_submodule(name)
        original = module.forward
        module.forward = lambda hidden, *args, **kwargs: original(hidden * math.inf, *args, **kwargs)

    return spoil


def spoil_loss(model):
    """Let everything be finite but the loss itself."""
    original = model.loss_function
    model.loss_function = lambda **given: original(**given) * math.inf


def spoil_logits_gradient(model):
    """Let the loss be finite and its gradient not."""
    original = model.loss_function
    # The square root of zero is zero, and its slope is infinite.
    model.loss_function = lambda **given: original(**given) + (given["logits"].sum() * 0).abs().sqrt()


LAYER = "model.layers.1"
CASES = {
    "embedding": (spoil_output("model.embed_tokens"), "output of model.embed_tokens"),
    "projection": (spoil_output(f"{LAYER}.mlp.up_proj"), f"output of {LAYER}.mlp.up_proj"),
    "whole layer": (spoil_output(LAYER), f"output of {LAYER}"),
    "weight": (spoil_weight("model.norm.weight"), "output of model.norm"),
    "code between modules": (spoil_code(f"{LAYER}.mlp"), f"code of {LAYER}.mlp"),
    "backward of a projection": (
        spoil_backward(f"{LAYER}.mlp.down_proj"),
        f"gradient of the input of {LAYER}.mlp.down_proj",
    ),
    "gradient of a weight": (
        spoil_parameter(f"{LAYER}.self_attn.o_proj.weight"),
        f"gradient of the weight of {LAYER}.self_attn.o_proj",
    ),
    "loss": (spoil_loss, "value of the loss"),
    "gradient of the loss": (spoil_logits_gradient, "gradient of the loss"),
}


@pytest.fixture
def locate(make_bench):
    """Return a function that makes a model, lets `spoil` change it, and says what one pass meets first."""

    def call(spoil, checkpointing="off"):
        from ftdoctor.training.origin import first_nonfinite

        bench = make_bench(adapter="none")
        model = bench.load().train()
        if checkpointing != "off":
            kind = {"use_reentrant": checkpointing == "reentrant"}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        batch = bench.batch(bench.tokenizer(), bench.rows(2))
        spoil(model)

        def run():
            loss = model(**batch).loss
            loss.backward()
            return loss.detach()

        return first_nonfinite(model, run), model

    return call


@pytest.mark.parametrize("checkpointing", ["off", "reentrant", "non_reentrant"])
@pytest.mark.parametrize(("spoil", "expected"), CASES.values(), ids=CASES)
def test_the_first_place_is_named(locate, spoil, expected, checkpointing):
    """The innermost module, in the order of the forward and then of the backward pass."""
    origin, _ = locate(spoil, checkpointing)

    assert str(origin) == expected


def test_a_pass_that_is_finite_has_no_origin(locate):
    """And leaves no hook behind."""
    origin, model = locate(lambda model: None)

    assert origin is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_hooks_are_removed_when_the_pass_breaks_down(make_bench):
    """What it raises is passed on."""
    from ftdoctor.training.origin import first_nonfinite

    model = make_bench(adapter="none").load()
    with pytest.raises(ZeroDivisionError):
        first_nonfinite(model, lambda: 1 / 0)

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
