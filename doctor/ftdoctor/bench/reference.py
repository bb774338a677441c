"""References of our own, computed in float64, and the rounding errors that a correct library may make."""

from __future__ import annotations

import math
from typing import Any

from ftdoctor.bench.precision import ROUNDINGS, unit_roundoff

IGNORED = -100
"""The label of a position that is not scored."""

CONFIDENCE = 4.0
"""Independent rounding errors add up to more than this many times their root sum of squares once in 16,000 cases."""


def token_losses(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Score each label by the logits of the position before it, in float64 and without any library's loss.

    Args:
        logits: shape (rows, positions, vocabulary).
        labels: shape (rows, positions); -100 where nothing is scored.

    Returns:
        The negative log-likelihoods, zero where nothing is scored, and the mask of what is scored; both of shape
        (rows, positions - 1).
    """
    import torch

    ahead = logits.detach().double()[:, :-1]
    targets = labels[:, 1:].to(ahead.device)
    scored = targets != IGNORED
    chosen = ahead.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    losses = torch.logsumexp(ahead, dim=-1) - chosen
    return torch.where(scored, losses, torch.zeros_like(losses)), scored


def mean_loss(logits: Any, labels: Any, items: int | None = None) -> float:
    """Return the sum of the token losses divided by `items`, or by the number of scored tokens."""
    losses, scored = token_losses(logits, labels)
    return float(losses.sum()) / (int(scored.sum()) if items is None else items)


def loss_error(logits: Any, labels: Any) -> float:
    """Return how far a float32 mean of cross entropies may be from the exact one of the same logits.

    The logits are exact in float32. Their differences to the maximum are rounded once each, the sum over the
    vocabulary and the sum over the tokens round once per term, and what is summed is at most the range of logits
    plus the logarithm of the vocabulary.
    """
    import torch

    rows = logits.detach().double()
    vocabulary, tokens = rows.shape[-1], int((labels[:, 1:] != IGNORED).sum())
    size = float(rows.max() - rows.min()) + math.log(vocabulary)
    return CONFIDENCE * unit_roundoff(torch.float32) * (math.sqrt(vocabulary) + size * (3 + math.sqrt(tokens)))


def relative_forward_error(config: Any, dtype: Any) -> float:
    """Return how far, relative to their largest, logits may move when the same sum is done in another order.

    Each of the roundings on the path through the layers is one independent relative error; in float32 and finer
    the sums of a matrix product are themselves kept in that dtype and round once per term.
    """
    import torch

    text = config.get_text_config()
    roundings = ROUNDINGS * int(text.num_hidden_layers) + 2
    terms = int(text.hidden_size) if dtype in (torch.float32, torch.float64) else 1
    return CONFIDENCE * unit_roundoff(dtype) * math.sqrt(roundings * terms)


def token_loss_error(config: Any, dtype: Any, logits: Any) -> float:
    """Return how far one token's loss may move when its row is computed in another shape of batch.

    The loss moves at most twice as far as the logits: once for the label's own, once for the normalizer.
    """
    largest = float(logits.detach().double().abs().max())
    return 2 * relative_forward_error(config, dtype) * largest


def flat(gradients: dict[str, Any]) -> Any:
    """Return all gradients as one float64 vector, in the order of their names."""
    import torch

    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


def distance(measured: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the norm of the difference of two sets of gradients, relative to the norm of the expected one."""
    a, b = flat(measured), flat(expected)
    if a.shape != b.shape:
        return math.inf
    return float((a - b).norm() / b.norm())
