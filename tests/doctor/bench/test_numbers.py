"""The references and bounds that probes measure with are right by themselves."""

from __future__ import annotations

import math

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def torch():
    import torch

    torch.manual_seed(0)
    return torch


def test_the_reference_loss_is_cross_entropy_of_the_next_token(torch):
    """Against torch's own, in float64, on shifted labels."""
    from ftdoctor.bench.reference import mean_loss

    logits = torch.randn(2, 7, 11, dtype=torch.float64)
    labels = torch.randint(0, 11, (2, 7))
    labels[0, :4] = -100
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )

    assert mean_loss(logits, labels) == pytest.approx(float(expected), rel=1e-14)
    assert mean_loss(logits, labels, items=100) == pytest.approx(float(expected) * 9 / 100, rel=1e-14)


def test_float32_cross_entropy_is_within_its_bound_and_bfloat16_is_not(torch):
    """The bound is neither too narrow for a right library nor too wide to see a coarse one."""
    from ftdoctor.bench.reference import loss_error, mean_loss

    labels = torch.randint(0, 512, (4, 64))
    for _ in range(50):
        logits = torch.randn(4, 64, 512) * 4
        exact, bound = mean_loss(logits, labels), loss_error(logits, labels)
        flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        coarse = torch.nn.functional.cross_entropy(flat.bfloat16(), targets)

        assert abs(float(torch.nn.functional.cross_entropy(flat, targets)) - exact) <= bound
        assert abs(float(coarse) - exact) > bound


def test_the_published_levels_are_those_of_the_library(torch):
    """NF4 of the paper and the 4-bit float, against what bitsandbytes decodes."""
    from bitsandbytes import functional

    from ftdoctor.bench.precision import LEVELS

    for kind, levels in LEVELS.items():
        theirs = sorted({float(v) for v in functional.get_4bit_type(kind, device="cpu")})

        assert theirs == pytest.approx(sorted(set(levels)), abs=1e-4)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_bound_of_a_format_holds_for_its_nearest_values_and_is_sharp(torch, kind):
    """A weight that lies on a level has no error; halfway between two it has half their distance."""
    from ftdoctor.bench.precision import LEVELS, format_error

    if kind == "int8":
        weight = torch.linspace(-127, 127, 255).repeat(2, 1) / 127
        error = format_error(weight, kind)

        assert float(error.max()) == pytest.approx(1 / 254, rel=0.3)
        return
    levels = torch.tensor(sorted(set(LEVELS[kind])), dtype=torch.float64)
    on = levels.repeat(8)[:64].reshape(1, 64)
    on[0, 0] = 1.0
    between = on.clone()
    between[0, 1] = (levels[-2] + levels[-1]) / 2

    assert float(format_error(on, kind).max()) == pytest.approx(0, abs=1e-15)
    assert float(format_error(between, kind)[0, 1]) == pytest.approx(float(levels[-1] - levels[-2]) / 2)


def test_unit_roundoffs_are_half_a_spacing(torch):
    """Of 24, 11 and 8 bits."""
    from ftdoctor.bench.precision import unit_roundoff

    assert [math.log2(unit_roundoff(d)) for d in (torch.float32, torch.float16, torch.bfloat16)] == [-24, -11, -8]
