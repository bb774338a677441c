"""Tokenizers built on the spot: byte-level BPE with real special tokens and a real chat template."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"512": 512, "128k": 128_256}
"""Axis value to number of tokens; 128,256 is the vocabulary of Llama 3."""


@dataclass(frozen=True)
class Style:
    """The special tokens that go with a chat template."""

    bos: str | None
    eos: str
    pad: str
    others: tuple[str, ...] = ()
    adds_bos: bool = False
    """Whether encoding a text puts the BOS token in front of it."""

    @property
    def specials(self) -> tuple[str, ...]:
        """All special tokens, each once, in the order of their ids."""
        return tuple(dict.fromkeys(t for t in (self.bos, self.eos, self.pad, *self.others) if t))


STYLES = {
    "chatml": Style(bos=None, eos="<|im_end|>", pad="<|endoftext|>", others=("<|im_start|>",)),
    "llama3": Style(
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        others=("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        adds_bos=True,
    ),
    "mistral": Style(bos="<s>", eos="</s>", pad="<pad>", others=("[INST]", "[/INST]"), adds_bos=True),
}


def chat_template(style: str) -> str:
    """Return the Jinja source of a chat template: `chatml`, `llama3` or `mistral`."""
    return files(__package__).joinpath("templates", f"{style}.jinja").read_text(encoding="utf-8").strip()


def build(style: str, vocabulary: str, cache: Path) -> Any:
    """Return a fast tokenizer of this style with exactly the number of tokens that `vocabulary` names.

    The `tokenizer.json` is made once per run and kept under `cache`: the large one takes seconds.
    """
    from transformers import PreTrainedTokenizerFast

    look = STYLES[style]
    return PreTrainedTokenizerFast(
        tokenizer_file=str(_tokenizer_file(style, vocabulary, cache)),
        bos_token=look.bos,
        eos_token=look.eos,
        pad_token=look.pad,
        chat_template=chat_template(style),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _tokenizer_file(style: str, vocabulary: str, cache: Path) -> Path:
    """Return the cached file, made first where it is missing; several processes may ask at once."""
    target = cache / f"tokenizer-{style}-{vocabulary}.json"
    if not target.exists():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

        look = STYLES[style]
        size = SIZES[vocabulary]
        vocab, merges = _vocabulary(size - len(look.specials))
        made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(list(look.specials))
        if look.bos and look.adds_bos:
            made.post_processor = processors.TemplateProcessing(
                single=f"{look.bos} $A",
                pair=f"{look.bos} $A {look.bos} $B",
                special_tokens=[(look.bos, made.token_to_id(look.bos))],
            )
        handle, partial = tempfile.mkstemp(dir=cache, suffix=".partial")
        os.close(handle)
        made.save(partial)
        Path(partial).replace(target)
    return target


def _vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a BPE vocabulary of `size` tokens: every byte, then merges of them, each reachable."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {byte: i for i, byte in enumerate(alphabet)}
    merges = []
    for left, right in _pairs(alphabet):
        if len(vocab) == size:
            break
        vocab[left + right] = len(vocab)
        merges.append((left, right))
    return vocab, merges


def _pairs(alphabet: list[str]) -> Iterator[tuple[str, str]]:
    """Yield merges: common letter pairs of English first, then all pairs, then pairs with a third byte."""
    letters = "etaoinshrdlu"
    common = [(a, b) for a in letters for b in letters] + [("Ġ", a) for a in letters]
    seen = set(common)
    yield from common
    for a in alphabet:
        for b in alphabet:
            if (a, b) not in seen:
                yield a, b
    for a in alphabet:
        for b in alphabet:
            yield from ((a + b, c) for c in ("e", "s"))
