"""A model loaded for training trains in float32, runs without autocast, and keeps its gradients after an evaluation.

Why: `from_pretrained`, `prepare_model_for_kbit_training` and `get_peft_model` each leave something to the script:
weights in the checkpoint's bfloat16, where small updates are lost; a head in float16, where Adam's squares underflow;
4-bit layers that lose their backward at the first evaluation on some CPUs; a tokenizer that one release cannot load
from a folder. All of it is silent, or is blamed on quantization.

Cure: `ftdoctor.training.load_for_training`, which does each of them in a stage of its own and says what it did.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ftdoctor.bench import rounding
from ftdoctor.checks import attempt
from ftdoctor.probe import probe

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

RUNS = "runs"


@probe(
    area="components",
    needs=("transformers", "accelerate", "peft"),
    axes=("family", "vocabulary", "quantization", "dtype", "adapter", "device"),
    references=("huggingface/transformers#42374", "bitsandbytes-foundation/bitsandbytes#2078", "huggingface/peft#341"),
)
def training_load(bench: Bench, check: Check) -> None:
    """Load the cell's model with ours, with the libraries' own calls, and as a first script does; take gradients."""
    from ftdoctor.training import load_for_training

    tokenizer = bench.tokenizer()
    wanted = tokenizer.encode(bench.text)
    loaded = load_for_training(
        bench.checkpoint(),
        quantization=(bench.cell["quantization"],),
        # Where all weights are trained their dtype is ours to choose; else it is the cell's.
        dtype=bench.dtype if bench.adapter() else "auto",
        adapter=bench.adapter(),
        device=bench.device,
    )
    models = {"naive": attempt(lambda: _naive(bench)), "library": attempt(bench.trainable), "ours": loaded.model}
    batch = bench.batch(tokenizer, bench.rows(2))
    check.equal(
        "token ids",
        loaded.tokenizer.encode(bench.text),
        wanted,
        beside={"library": attempt(lambda: _tokenizer(bench).encode(bench.text))},
        owner=load_for_training,
    )
    low = {way: attempt(partial(_low_precision, m)) for way, m in models.items()}
    check.equal("trained tensors not in float32", low.pop("ours"), 0, beside=low, owner=load_for_training)
    runs = {way: attempt(partial(_step, m, batch)) for way, m in models.items()}
    ours = runs.pop("ours")
    told = {way: _told(run) for way, run in runs.items()}
    if not check.equal("backward without autocast", str(_told(ours)), RUNS, beside=told, owner=load_for_training):
        return
    bound, why = 0.0, "same weights, same batch: one thread on a CPU repeats bit for bit"
    if bench.device != "cpu":
        bound, why = rounding.relative(loaded.model, rounding.coarsest(bench, loaded.model))
    check.at_most(
        "change of the gradients by an evaluation",
        _change(loaded.model, batch),
        bound,
        why=why,
        beside={way: attempt(partial(_change, models[way], batch)) for way in runs},
        owner=load_for_training,
    )


def _naive(bench: Bench) -> Any:
    """Return the model as a first script has it: loaded, the adapter on top, nothing prepared."""
    from peft import get_peft_model

    model, adapter = bench.load(), bench.adapter()
    return model if adapter is None else get_peft_model(model, adapter)


def _tokenizer(bench: Bench) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bench.checkpoint())


def _told(result: Any) -> Any:
    return result if isinstance(result, Exception) else RUNS


def _low_precision(model: Any) -> int:
    import torch

    if isinstance(model, Exception):
        raise model
    return sum(p.requires_grad and p.dtype != torch.float32 for p in model.parameters())


def _step(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Return the gradients of one batch, dropout off and the mode of training on."""
    import torch

    if isinstance(model, Exception):
        raise model
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.zero_grad()
    model(**batch, use_cache=False).loss.backward()
    return {n: p.grad.detach().double() for n, p in model.named_parameters() if p.grad is not None}


def _change(model: Any, batch: dict[str, Any]) -> float:
    """Return by how much of its size the gradient differs after a forward pass in eval mode."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)  # it begins at zero, and lora_A's gradient with it
    before = _step(model, batch)
    model.eval()
    with torch.no_grad():
        model(**batch)
    after = _step(model, batch)
    lost = sum(float((g - after.get(n, torch.zeros_like(g))).norm()) ** 2 for n, g in before.items()) ** 0.5
    whole = sum(float(g.norm()) ** 2 for g in before.values()) ** 0.5
    return lost / whole if whole else 1.0


@training_load.fault(
    "what is trained keeps its dtype",
    catches=("trained tensors not in float32",),
    cell={"adapter": "lora_head", "dtype": "float16"},
)
def dtype_kept(patch: Patch) -> None:
    """A head that is trained in full stays in float16."""
    from ftdoctor.training import adapters

    patch.replace(adapters, "train_in_float32", lambda model: 0)


@training_load.fault(
    "a trained head does not cast its input",
    catches=("backward without autocast",),
    cell={"adapter": "lora_head", "dtype": "bfloat16"},
)
def input_not_cast(patch: Patch) -> None:
    """Its float32 weight meets the bfloat16 output of the layer before."""
    from ftdoctor.training import adapters

    patch.replace(adapters, "follow_dtype", lambda model: 0)


@training_load.fault(
    "an evaluation takes the base's gradient away", catches=("change of the gradients by an evaluation",)
)
def base_without_backward(patch: Patch) -> None:
    """What repacked 4-bit layers do, here without quantization: values are right, gradients end there."""
    from peft.tuners.lora import Linear

    def around(original: Any, self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.evaluated = getattr(self, "evaluated", False) or not self.training
        result = original(self, x, *args, **kwargs)
        return result.detach() + 0 * result if self.evaluated else result

    patch.wrap(Linear, "forward", around)


@training_load.fault("the tokenizer that is loaded is another", catches=("token ids",))
def other_tokenizer(patch: Patch) -> None:
    """It writes everything in small letters first."""
    from tokenizers.normalizers import Lowercase

    from ftdoctor.training import stages

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer = original(*args, **kwargs)
        tokenizer.backend_tokenizer.normalizer = Lowercase()
        return tokenizer

    patch.wrap(stages, "tokenizer_stage", around)
