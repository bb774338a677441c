"""A fine-tuned model that was saved and loaded again gives the same logits, with its tokenizer beside it.

Why: what is deployed is never the model that was evaluated during training, but the one read back from the folder.
An adapter whose names do not match is ignored with one warning; a scale, a head or a template that was not saved
changes every answer. The loss curve was good, the deployed model is not, and nothing connects the two.

Cure: load the adapter with the releases of peft and transformers that saved it, onto the same base in the same
quantization, and compare the logits of one prompt before you deploy. A tokenizer that differs must be saved again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench import rounding
from ftdoctor.bench.packing import keep_unpacked
from ftdoctor.bench.rows import messages
from ftdoctor.bench.tensors import some
from ftdoctor.bench.watch import copy_of
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from pathlib import Path

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="training",
    needs=("transformers", "accelerate"),
    axes=("family", "trainer", "quantization", "dtype", "mixed_precision", "adapter", "device"),
    references=("huggingface/peft#2289",),
)
def checkpoint_reload(bench: Bench, check: Check) -> None:
    """Train two large steps, save, load as a user does, and compare tensors, logits and tokenizer."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    tokenizer = bench.tokenizer()
    # The logits are of eval mode, in which some CPUs repack 4-bit layers and round them: not this promise.
    model = keep_unpacked(bench.trainable())
    trainer = bench.trainer(model, tokenizer, bench.arguments(max_steps=2, learning_rate=1e-2))
    trainer.train()
    folder = bench.new_folder("final")
    trainer.save_model(str(folder))

    loaded = keep_unpacked(_load(bench, folder))
    _compare(bench, check, trainer, loaded)
    chat = messages("How are you?")
    check.equal(
        "chat tokens of the tokenizer beside the weights",
        _tokens(AutoTokenizer.from_pretrained(folder), chat),
        _tokens(tokenizer, chat),
        owner=PreTrainedTokenizerBase.save_pretrained,
    )


def _load(bench: Bench, folder: Path) -> Any:
    if bench.cell["adapter"] == "none":
        return bench.load(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(bench.prepare(bench.load()), folder)


def _compare(bench: Bench, check: Check, trainer: Any, loaded: Any) -> None:
    trained, read = copy_of(trainer.model), dict(loaded.named_parameters())
    check.equal(
        "trained tensors that came back changed",
        some(n for n, p in trained.items() if n not in read or not (p.double() == read[n].double()).all()),
        "none",
        why="safetensors store every bit, and loading to a wider dtype is exact",
        owner=type(loaded).from_pretrained,
    )
    batch = bench.batch(bench.tokenizer(), bench.rows(2))
    expected = _logits(trainer.model, batch, _precision(bench, trainer))
    bound, why = rounding.difference(trainer.model, expected, rounding.coarsest(bench, trainer.model))
    check.close(
        "logits",
        _logits(loaded, batch, _precision(bench, trainer)),
        expected,
        atol=bound,
        why=why,
        owner=type(loaded).from_pretrained,
    )


def _precision(bench: Bench, trainer: Any) -> Any:
    """Return the context of the comparison: the trainer's own precision.

    TRL casts what it trains of a quantized model to bfloat16. A plain forward of a head that was cast so fails
    without mixed precision, which `generation-in-trainer` reports; here such a model is read under autocast.
    """
    import torch

    trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    if bench.cell["quantization"] != "none" and trained == {torch.bfloat16}:
        return torch.autocast(bench.device, dtype=torch.bfloat16)
    return trainer.accelerator.autocast()


def _logits(model: Any, batch: dict[str, Any], precision: Any) -> Any:
    """Return the eval-mode logits of the positions that are not padding, under the given precision."""
    import torch

    model.eval()
    with torch.no_grad(), precision:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[batch["attention_mask"].bool()]


def _tokens(tokenizer: Any, chat: Any) -> list[int]:
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    return list(tokenizer(text)["input_ids"])


@checkpoint_reload.fault(
    "the last layer's adapter is not saved", catches=("trained tensors that came back changed", "logits")
)
def layer_not_saved(patch: Patch) -> None:
    """Loading says so in a warning and goes on with the initial values."""
    import peft.peft_model

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        return {k: v for k, v in original(*args, **kwargs).items() if ".layers.1." not in k}

    patch.wrap(peft.peft_model, "get_peft_model_state_dict", around)


@checkpoint_reload.fault("the adapter's scale is lost", catches=("logits",))
def scale_lost(patch: Patch) -> None:
    """All tensors come back, and are applied at half their strength."""
    from peft import PeftConfig

    def around(original: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(cls, *args, **kwargs)
        config.lora_alpha = config.lora_alpha / 2
        return config

    patch.wrap(PeftConfig, "from_pretrained", around)


@checkpoint_reload.fault(
    "the saved tokenizer has another chat template", catches=("chat tokens of the tokenizer beside the weights",)
)
def template_changed(patch: Patch) -> None:
    """The deployed model is asked in a form that it was not trained on."""
    from transformers import PreTrainedTokenizerBase

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kept, self.chat_template = self.chat_template, "{{ messages[0]['content'] }}"
        saved = original(self, *args, **kwargs)
        self.chat_template = kept
        return saved

    patch.wrap(PreTrainedTokenizerBase, "save_pretrained", around)
