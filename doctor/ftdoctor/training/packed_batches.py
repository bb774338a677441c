"""Batches of packed rows in which no example sees another: by their positions, or by a mask, as the model needs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.collator import checked, padding_token, plain, tensor
from ftdoctor.training.truncating import IGNORED
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ISOLATIONS = ("positions", "one_row", "mask")

MOVED = 0.1
"""How far logits may move with the place of their example, as a share of their spread over the vocabulary."""

SCALE = 256.0
"""What goes backwards is multiplied by this, so that gradients in float16 stay above zero."""


@dataclass(frozen=True)
class PackedCollator:
    """Pads packed rows on the right, with what keeps their examples apart; made by `packed_collator`.

    Attributes:
        pad_token_id: the token in the inputs of padding, which is not scored and is an example of its own.
        isolation: `positions`: rows with positions that start again, no attention mask and no cache, from which
            transformers makes the mask; `one_row`: all rows of the batch behind each other in one, as flash
            attention wants them; `mask`: a mask of four dimensions besides.
        additive: the name of the torch dtype of an additive mask (eager attention), or empty for one of bools (sdpa).
        window: positions of the shortest sliding window of the model's attention, 0 where it has none.
        pad_to_multiple_of: the length of a batch is rounded up to a multiple of this, 1 for none.
    """

    pad_token_id: int
    isolation: str
    additive: str = ""
    window: int = 0
    pad_to_multiple_of: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch of int64 tensors.

        Args:
            rows: packed rows: `input_ids`, `labels`, and `position_ids` or `seq_lengths`; an unpacked row is one
                example.

        Returns:
            `input_ids`, `labels`, `position_ids`, shape (rows, longest) or (1, all); with `mask` an
            `attention_mask`, shape (rows, 1, longest, longest); and `use_cache=False`, for a cache makes
            transformers overlook where examples begin.

        Raises:
            DataError: a row has no labels or lists of unequal lengths; or, with `mask`, an example is longer than the
                model's sliding window.
        """
        columns = checked([_with_positions(row) for row in rows])
        if self.isolation == "one_row":
            columns = {name: [[value for row in values for value in row]] for name, values in columns.items()}
        longest = max(len(ids) for ids in columns["input_ids"])
        length = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padding = {"input_ids": self.pad_token_id, "labels": IGNORED}
        batch = {name: tensor(columns[name], length, padding[name]) for name in ("input_ids", "labels")}
        positions = [[*row, *range(length - len(row))] for row in columns["position_ids"]]
        batch["position_ids"] = tensor(positions, length, 0)
        # Nothing predicts the first token of an example, whoever packed it.
        batch["labels"][batch["position_ids"] == 0] = IGNORED
        if self.isolation == "mask":
            batch["attention_mask"] = self._mask(batch["position_ids"])
        return {**batch, "use_cache": False}

    def _mask(self, positions: Any) -> Any:
        """Return which position may look at which: those before it in its own example, and itself."""
        import torch

        if self.window and int(positions.max()) >= self.window:
            raise DataError(
                f"An example has {int(positions.max()) + 1} tokens, more than the sliding window of {self.window}, "
                "which a mask cannot keep here; encode with a shorter max_length, or use flash attention."
            )
        example = (positions == 0).cumsum(-1)
        at = torch.arange(positions.shape[-1])
        seen = (example[:, :, None] == example[:, None, :]) & (at[:, None] >= at)
        if not self.additive:
            return seen[:, None]
        dtype = getattr(torch, self.additive)
        hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return hidden[:, None]


def packed_collator(model: Any, tokenizer: Any, *, isolation: str = "", pad_to_multiple_of: int = 1) -> PackedCollator:
    """Return a collator for packed rows that keeps the examples apart in this model.

    Two short examples are packed and sent through the model: the second must not depend on the first, by its
    gradient, which is exactly zero where attention gives no weight. The ways are tried in turn: one row for flash
    attention; for others positions alone, then a mask.

    Args:
        model: the model as it will be trained, on its device; before it is wrapped for several processes.
        tokenizer: for the padding token.
        isolation: `positions`, `one_row` or `mask` to take that way without measuring.
        pad_to_multiple_of: the length of a batch is rounded up to a multiple of this, 1 for none.

    Raises:
        TrainingError: none of the ways keeps examples apart (recurrent layers carry their state across), or the
            model passes no gradient, so that nothing can be measured.
    """
    if isolation and isolation not in ISOLATIONS:
        raise TrainingError(f"isolation={isolation!r} is not one of {', '.join(ISOLATIONS)}.")
    config = model.config.get_text_config()
    attention = str(getattr(config, "_attn_implementation", "") or "eager")
    made = PackedCollator(
        padding_token(tokenizer),
        isolation,
        additive="" if attention == "sdpa" else str(model.dtype).removeprefix("torch."),
        window=_window(config),
        pad_to_multiple_of=pad_to_multiple_of,
    )
    if isolation:
        return made
    refused: Exception | None = None
    for way in ("one_row",) if "flash" in attention else ("positions", "mask"):
        tried = replace(made, isolation=way)
        try:
            if keeps_apart(model, tried):
                return tried
        except TrainingError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            if "out of memory" in str(error):
                raise
            refused = error  # the model does not take what the collator hands it
    why = f" ({shorten(str(refused), 150)})" if refused else ""
    raise TrainingError(
        f"No way of packing keeps examples apart in {type(model).__name__} with {attention} attention{why}; train it "
        "without packing."
    ) from refused


def keeps_apart(model: Any, collator: PackedCollator) -> bool:
    """Say whether examples that this collator packs are to the model what each of them is alone.

    The second of two must have no gradient to the first, which is exact: no attention, no gradient. And its logits
    must be the same whether it stands second or first, up to a tenth of their spread over the vocabulary: rounding
    in bfloat16 stays below that, a position that is counted from the beginning of the row does not. Modes, gradients
    and random numbers are left as they were.

    Args:
        model: the model, on its device.
        collator: what makes the batch.

    Raises:
        TrainingError: not even an example's own tokens have a gradient, so that nothing can be measured.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first, second = ([i % vocabulary for i in ids] for ids in (range(3, 8), range(8, 15)))
    rows = [
        {"input_ids": [*a, *b], "labels": [*a, *b], "seq_lengths": [len(a), len(b)]}
        for a, b in ((first, second), (second, first))
    ]
    logits, reached = _measure(model, collator(rows), len(rows[0]["input_ids"]))
    own = reached[len(first) :]
    if not any(own[:-1]):
        raise TrainingError(
            f"{type(model).__name__} passes no gradient from a token to those before it, so whether packed examples "
            "stay apart cannot be measured; name the `isolation` that is known to hold, or train without packing."
        )
    stands_second, stands_first = logits[0, len(first) :], logits[1, : len(second)]
    moved = (stands_second - stands_first).pow(2).mean().sqrt()
    return not any(reached[: len(first)]) and bool(moved <= MOVED * stands_first.std(-1).mean())


def _measure(model: Any, batch: Mapping[str, Any], length: int) -> tuple[Any, list[bool]]:
    """Return the logits of rows of a length, and for each token of the first whether its last logits depend on it."""
    import torch

    embedded: list[Any] = []

    def keep(module: Any, arguments: Any, output: Any) -> Any:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    device = next(model.parameters()).device
    inputs = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items() if k != "labels"}
    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with _undisturbed(model), torch.enable_grad():
            # One row of all, or one row each, of which padding may be the end.
            logits = model(**inputs).logits
            logits = logits[:, : logits.shape[1] // length * length].float()
            logits = logits.reshape(-1, length, logits.shape[-1]) if len(logits) == 1 else logits[:, :length]
            if logits.requires_grad:
                (logits[0, -1].logsumexp(-1) * SCALE).backward()
    finally:
        hook.remove()
    gradient = embedded[0].grad
    sizes = [0.0] * length if gradient is None else gradient.float().abs().sum(-1).flatten()[:length].tolist()
    return logits.detach(), [size > 0 for size in sizes]


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Eval mode, without dropout, and parameters that keep no gradient; all put back afterwards.

    On some CPUs bitsandbytes repacks 4-bit layers in eval mode and spoils their gradients for good, but only for
    inputs that require none; here they do.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def _window(config: Any) -> int:
    """Return the positions that the shortest window of a model's attention spans, 0 where it has none."""
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(size) for size in sizes if size), default=0)


def _with_positions(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its positions: its own, those that its lengths say, or those of one example."""
    if row.get("position_ids") is not None or row.get("input_ids") is None:
        return dict(row)
    lengths = row.get("seq_lengths")
    lengths = [len(row["input_ids"])] if lengths is None else plain(lengths)
    return {**row, "position_ids": [position for length in lengths for position in range(length)]}
