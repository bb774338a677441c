"""A tokenizer saved to a folder loads back from it, whatever its vocabulary size.

Why: the loader takes other paths for large vocabularies and for local folders. transformers 4.57.2 dies there
with `'dict' object has no attribute 'model_type'` for more than 100,000 tokens, and the message is blamed on
quantization because the model is loaded in the same function.

Cure: install another release of the culprit; a tokenizer that loads with changed ids, special tokens or chat
template must be saved again with the release that reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.bench.rows import messages
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(
    area="loading",
    needs=("transformers",),
    axes=("family", "vocabulary"),
    references=("huggingface/transformers#42374", "huggingface/transformers#42376"),
)
def tokenizer_reload(bench: Bench, check: Check) -> None:
    """Save, load, and compare what the two tokenizers do with the same text and chat."""
    from transformers import AutoTokenizer

    saved = bench.tokenizer()
    folder = bench.save(saved, bench.config())
    loaded = AutoTokenizer.from_pretrained(folder)
    chat = messages("How are you?", bench.text)

    check.equal("token ids", loaded.encode(bench.text), saved.encode(bench.text))
    check.equal(
        "text after encoding and decoding",
        loaded.decode(loaded.encode(bench.text, add_special_tokens=False)),
        bench.text,
        why="byte-level BPE loses no byte",
    )
    check.equal("special token ids", _special_ids(loaded), _special_ids(saved))
    check.equal(
        "rendered chat",
        loaded.apply_chat_template(chat, tokenize=False),
        saved.apply_chat_template(chat, tokenize=False),
    )
    check.equal("number of tokens", len(loaded), len(saved))


def _special_ids(tokenizer: Any) -> dict[str, int | None]:
    return {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


@tokenizer_reload.fault(
    "config.json is read as a dict", catches=("raises AttributeError",), cell={"vocabulary": "128k"}
)
def config_read_as_dict(patch: Patch) -> None:
    """What transformers 4.57.2 does: the config of a local folder arrives as a plain dict."""
    from transformers import PreTrainedTokenizerBase

    def around(original: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer = original(cls, *args, **kwargs)
        if len(tokenizer) > 100_000:
            config: Any = {"model_type": "llama"}
            tokenizer.is_mistral = config.model_type == "mistral"
        return tokenizer

    patch.wrap(PreTrainedTokenizerBase, "_from_pretrained", around)


@tokenizer_reload.fault(
    "the chat template and the pad token are not saved", catches=("rendered chat", "special token ids")
)
def template_lost(patch: Patch) -> None:
    """The loaded tokenizer has another template and another pad token than the saved one."""
    from transformers import PreTrainedTokenizerBase

    def around(original: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer = original(cls, *args, **kwargs)
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    patch.wrap(PreTrainedTokenizerBase, "_from_pretrained", around)


@tokenizer_reload.fault(
    "a token is added while loading and text is lower-cased",
    catches=("number of tokens", "token ids", "text after encoding and decoding"),
)
def normalizer_added(patch: Patch) -> None:
    """The loaded tokenizer normalizes what the saved one did not, and has one token more."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerBase

    def around(original: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer = original(cls, *args, **kwargs)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.add_tokens(["<added>"])
        return tokenizer

    patch.wrap(PreTrainedTokenizerBase, "_from_pretrained", around)
