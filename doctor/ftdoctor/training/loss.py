"""Token-mean cross entropy of a causal language model, over the whole accumulated and distributed batch.

Each label is scored by the logits of the position before it, in float32 whatever the logits' dtype, and the sum is
divided by the number of scored tokens of the whole batch. A batch with nothing to score is zero, with a gradient of
zeros, where a plain mean is 0/0. No copy of the logits is made, and of the work over the vocabulary nothing is kept
but one number a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ftdoctor.errors import DataError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

IGNORED = -100
"""The label of a position that is not scored."""

CHUNK = {"cpu": 2**21}
"""Logits that are worked on at a time, by kind of device: 8 MiB of float32, which stay in a processor's cache."""
LARGE_CHUNK = 2**25
"""The same on an accelerator: 128 MiB, so that starting a kernel costs little beside running it."""
ANSWERS_AT_ONCE = ("cpu",)
"""Devices that can be asked which rows are scored; on others the question waits for all that was begun before it."""


def token_mean_loss(logits: torch.Tensor, labels: torch.Tensor, num_items: Any = None) -> torch.Tensor:
    """Return the cross entropy of next tokens, summed over the scored ones and divided by `num_items`.

    Args:
        logits: shape (..., tokens, vocabulary), of any floating dtype and any strides; the vocabulary may be padded
            beyond the tokenizer's.
        labels: shape (..., tokens), equal to `input_ids` where a token is scored and -100 elsewhere. They are
            shifted here: the label at t+1 is scored by the logits at t, and the label at 0 by nothing.
        num_items: scored tokens of the whole batch of which these are a part, as a number or a tensor with one
            number; their own number where it is None.

    Returns:
        A scalar in float32 (float64 for float64 logits), in nats a token: exactly 0 where nothing is scored. Its
        gradient has the logits' dtype; there is no second derivative.

    Raises:
        TrainingError: shapes that don't fit each other, more than one number of items, or (on the way back) a
            gradient that is to be differentiated again.
        DataError: a label that is no token of the vocabulary. On a CPU; an accelerator stops with its own assertion,
            for a message of ours would have to wait for the device.
    """
    _check_shapes(logits, labels)
    targets = torch.nn.functional.pad(labels.to(logits.device), (0, 1), value=IGNORED)[..., 1:]
    return aligned_loss(logits, targets, num_items)


def aligned_loss(logits: torch.Tensor, targets: torch.Tensor, num_items: Any = None) -> torch.Tensor:
    """Return the same as `token_mean_loss` for labels that are shifted already, such as those of chosen positions.

    Args:
        logits: shape (..., positions, vocabulary).
        targets: shape (..., positions): the token that each position is to predict, -100 where it is not scored.
        num_items: as in `token_mean_loss`.

    Raises:
        TrainingError: as in `token_mean_loss`.
        DataError: as in `token_mean_loss`.
    """
    _check_shapes(logits, targets)
    targets = targets.reshape(-1)
    scored = targets != IGNORED
    count = scored.sum()
    if num_items is not None:
        count = torch.as_tensor(num_items, device=logits.device).squeeze()
        if count.ndim:
            raise TrainingError(
                f"num_items_in_batch holds {count.numel()} numbers: torch.nn.DataParallel is not supported; "
                "start one process per device with torchrun or accelerate launch."
            )
    if logits.device.type in ANSWERS_AT_ONCE:
        _check_labels(targets, scored, logits.shape)
    work = torch.promote_types(logits.dtype, torch.float32)
    divisor = torch.where(count > 0, count, torch.ones_like(count)).to(work)
    loss: torch.Tensor = _TokenMean.apply(logits, targets, scored, divisor)
    return loss


def weighted_balance(balance: torch.Tensor, weight: float, count: torch.Tensor, num_items: Any = None) -> torch.Tensor:
    """Return what the balance of a mixture's experts adds to the loss of a micro-batch.

    By its share of the step's tokens, so that the parts of an accumulated batch add up to one mean.

    Args:
        balance: the model's `aux_loss`, a scalar.
        weight: the config's `router_aux_loss_coef`.
        count: scored tokens of the micro-batch.
        num_items: scored tokens of the whole batch, None for the micro-batch alone.
    """
    share = 1.0 if num_items is None else count / torch.as_tensor(num_items, device=count.device).clamp(min=1)
    return weight * balance * torch.as_tensor(share, device=balance.device, dtype=balance.dtype)


class TokenMeanLoss:
    """`token_mean_loss` in the form in which a Trainer takes a loss: `compute_loss_func=TokenMeanLoss()`.

    Args:
        balance: weight of the loss that a mixture of experts adds for the balance of its experts, as in the
            config's `router_aux_loss_coef`. It must be given where the model returns one: the model itself adds it
            only to a loss of its own.
    """

    def __init__(self, balance: float | None = None) -> None:
        self.balance = balance
        self._empty: Any = 0

    def __call__(self, outputs: Any, labels: torch.Tensor | None, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of one micro-batch.

        Args:
            outputs: what the model returned: with `logits`, or a tuple that begins with them.
            labels: shape (rows, tokens); -100 where nothing is scored.
            num_items_in_batch: as the Trainer counts it, over all micro-batches and all processes of the step; None
                in an evaluation, where the batch is divided by its own number.

        Raises:
            TrainingError: there are no labels, or the balance loss of a mixture of experts would be dropped.
        """
        if labels is None:
            raise TrainingError(
                "The batch has no `labels`, and nothing can be scored: add a column or a collator that makes it."
            )
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        loss = token_mean_loss(logits, labels, num_items_in_batch)
        count = labels[..., 1:].ne(IGNORED).sum()
        # On the device of the labels: counting must not wait for it.
        self._empty = self._empty + count.eq(0)
        balance = outputs.get("aux_loss") if isinstance(outputs, dict) else None
        if balance is None:
            return loss
        if self.balance is None:
            raise TrainingError(
                "The model returns a loss for the balance of its experts (aux_loss), which a loss of one's own drops; "
                "give its weight, TokenMeanLoss(balance=model.config.router_aux_loss_coef), or 0 to train without it."
            )
        return loss + weighted_balance(balance, self.balance, count, num_items_in_batch)

    @property
    def empty_batches(self) -> int:
        """How many micro-batches had nothing to score; reading it waits for the device."""
        return int(self._empty)


def _check_shapes(logits: torch.Tensor, labels: torch.Tensor) -> None:
    if logits.ndim < 2 or tuple(logits.shape[:-1]) != tuple(labels.shape):
        raise TrainingError(
            f"Labels of shape {tuple(labels.shape)} don't fit logits of shape {tuple(logits.shape)}: there must be one "
            "label for each position (virtual tokens of a prompt adapter have none, and cannot be scored here)."
        )


def _check_labels(targets: torch.Tensor, scored: torch.Tensor, shape: torch.Size) -> None:
    """Name the first label that is no token, by row of the batch and position."""
    tokens, vocabulary = shape[-2:]
    wrong = scored & ((targets < 0) | (targets >= vocabulary))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"Label {int(targets[first])} in row {first // tokens} of the batch, position {first % tokens + 1}, is no "
            f"token of a vocabulary of {vocabulary}; only {IGNORED} means `not scored`. Is the tokenizer the model's?"
        )


class _TokenMean(torch.autograd.Function):  # type: ignore[misc]
    """Keeps the logits and one logarithm a row; the probabilities are computed again on the way back."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, scored: torch.Tensor, divisor: torch.Tensor
    ) -> torch.Tensor:
        normalizers, losses = [], [divisor.new_zeros(1)]
        for rows in _pieces(logits, scored):
            chunk = _take(logits, rows).to(divisor.dtype)
            normalizers.append(torch.logsumexp(chunk, dim=-1))
            chosen = chunk.gather(1, _labels(targets, rows)).squeeze(1)
            losses.append(torch.where(scored[rows], normalizers[-1] - chosen, 0))
        ctx.save_for_backward(logits, targets, scored, divisor, *normalizers)
        return torch.cat(losses).sum() / divisor

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise TrainingError(
                "token_mean_loss has no second derivative; take gradients without create_graph=True, or use "
                "torch.nn.functional.cross_entropy."
            )
        logits, targets, scored, divisor, *normalizers = ctx.saved_tensors
        scale = upstream / divisor
        gradient = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
        flat = gradient.view(-1, logits.shape[-1])
        for rows, normalizer in zip(_pieces(logits, scored), normalizers, strict=True):
            chunk = _take(logits, rows)
            in_place = isinstance(rows, slice) and logits.dtype == divisor.dtype
            if in_place:
                probabilities = torch.softmax(chunk, dim=-1, out=flat[rows])  # straight to where it belongs
            else:
                probabilities = (chunk.to(divisor.dtype) - normalizer.unsqueeze(1)).exp_()
            index = _labels(targets, rows)
            probabilities.scatter_add_(1, index, probabilities.new_full((), -1.0).expand(index.shape))
            probabilities.mul_(scale)
            if logits.device.type not in ANSWERS_AT_ONCE:
                # Rows that are not scored are among them; a factor of zero would leave NaN what is NaN there.
                probabilities.masked_fill_(~scored[rows].unsqueeze(1), 0)
            if not in_place:
                flat[rows] = probabilities.to(logits.dtype)
        return gradient, None, None, None


def _pieces(logits: torch.Tensor, scored: torch.Tensor) -> Iterator[slice | torch.Tensor]:
    """Yield the rows of logits to work on, a chunk at a time.

    On a CPU those that are scored: a slice where they are neighbours, which needs no copy, else their numbers. On an
    accelerator all of them.
    """
    size = max(1, CHUNK.get(logits.device.type, LARGE_CHUNK) // logits.shape[-1])
    if logits.device.type not in ANSWERS_AT_ONCE:
        for start in range(0, scored.numel(), size):
            yield slice(start, min(start + size, scored.numel()))
        return
    for rows in scored.nonzero().squeeze(1).split(size):
        if rows.numel():
            first, last = int(rows[0]), int(rows[-1])
            yield slice(first, last + 1) if last - first + 1 == rows.numel() else rows


def _take(logits: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
    """Return rows of the logits, counted through all leading dimensions: a view where the strides allow it."""
    try:
        return logits.view(-1, logits.shape[-1])[rows]
    except RuntimeError:
        numbers = torch.arange(rows.start, rows.stop, device=logits.device) if isinstance(rows, slice) else rows
        return logits[torch.unravel_index(numbers, logits.shape[:-1])]


def _labels(targets: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
    """Return the labels of rows as a column; the first token where none is scored."""
    return torch.where(targets[rows] == IGNORED, 0, targets[rows]).unsqueeze(1)
