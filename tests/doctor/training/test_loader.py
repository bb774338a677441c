"""A model is loaded in stages that are told apart, in the ways that were asked for and in no other."""

from __future__ import annotations

import json
import shutil

import pytest

from ftdoctor.errors import LoadError
from ftdoctor.training.loader import load_for_training

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
NONE = ("none",)


@pytest.fixture
def checkpoint(make_bench):
    """A folder with a tiny float32 model and its tokenizer."""
    return make_bench().checkpoint()


@pytest.fixture
def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def edit(path, **changes):
    """Change values of a JSON file; None removes."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_it_returns_model_tokenizer_and_record(checkpoint, lora):
    """Ready to train: the adapter in float32, the model in training mode."""
    import torch

    model, tokenizer, record = load_for_training(checkpoint, quantization=NONE, adapter=lora)
    trained = [p for p in model.parameters() if p.requires_grad]

    assert model.training
    assert {p.dtype for p in trained} == {torch.float32}
    assert record.trainable == sum(p.numel() for p in trained) > 0
    assert len(tokenizer) == model.config.vocab_size
    assert (record.quantization, record.tried, record.dtype) == ("none", (), "float32")
    assert record.versions["torch"] in torch.__version__


def test_everything_is_trained_without_an_adapter_and_in_float32(make_bench):
    """Whatever the checkpoint was saved in: bfloat16 loses small updates."""
    import torch

    bench = make_bench()
    folder = bench.save(bench.model().to(torch.bfloat16), bench.tokenizer())
    model, _, record = load_for_training(folder, quantization=NONE)

    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert record.trainable == record.parameters
    assert any("float32 instead of torch.bfloat16" in note for note in record.notes)


@pytest.mark.parametrize(("quantization", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_a_quantized_model_is_prepared_and_its_adapter_trains(checkpoint, lora, quantization, kind):
    """Norms and head in float32, every adapter tensor with a gradient after an evaluation too."""
    import torch

    model, _, record = load_for_training(checkpoint, quantization=(quantization,), dtype="bfloat16", adapter=lora)
    ids = torch.arange(8)[None]
    model.eval()
    model(input_ids=ids)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    assert kind in {type(m).__name__ for m in model.modules()}
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert all(bool(g.any()) for n, g in gradients.items() if "lora_B" in n)
    assert record.needed > 0


def test_the_callers_random_state_is_left_alone_and_the_seed_decides(checkpoint, lora):
    """Two loads give the same adapter, whatever was drawn before."""
    import torch

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_for_training(checkpoint, quantization=NONE, adapter=lora).model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)

    torch.manual_seed(2)
    second = load_for_training(checkpoint, quantization=NONE, adapter=lora).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_callers_adapter_config_is_left_as_it_was(checkpoint, lora):
    """peft writes the base model's name and class into the config that it is given."""
    before = lora.to_dict()
    load_for_training(checkpoint, quantization=NONE, adapter=lora)

    assert lora.to_dict() == before


def test_a_config_that_is_a_dict_is_rebuilt(checkpoint, lora):
    """From its model_type, and the record says so."""
    values = json.loads((checkpoint / "config.json").read_text())
    model, _, record = load_for_training(checkpoint, quantization=NONE, adapter=lora, config=values)

    assert type(model.config).__name__ == "LlamaConfig"
    assert "the config came as a dict and was rebuilt as LlamaConfig" in record.notes


def test_no_property_is_planted_on_any_class(checkpoint, lora):
    """The class of the model and of its config have what they had."""
    from transformers import LlamaConfig, LlamaForCausalLM

    before = [dict(vars(kind)) for kind in (LlamaForCausalLM, LlamaConfig)]
    load_for_training(checkpoint, quantization=("nf4",), adapter=lora)

    assert [dict(vars(kind)) for kind in (LlamaForCausalLM, LlamaConfig)] == before


def broken(stage, folder):
    """Break one stage of a checkpoint."""
    if stage == "config":
        edit(folder / "config.json", model_type="lama")
    elif stage == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif stage == "model":
        (folder / "model.safetensors").write_bytes(b"not weights")


@pytest.mark.parametrize("stage", ["config", "tokenizer", "model"])
@pytest.mark.parametrize("ladder", [NONE, ("nf4", "int8", "none")])
def test_a_broken_checkpoint_is_named_by_its_stage_and_no_other_rung_is_tried(checkpoint, lora, stage, ladder):
    """Quantization has nothing to do with it."""
    broken(stage, checkpoint)
    with pytest.raises(LoadError, match=f"failed at its {stage}") as caught:
        load_for_training(checkpoint, quantization=ladder, adapter=lora)

    assert caught.value.stage == stage
    assert "before that" not in str(caught.value)
    assert ".py:" in str(caught.value)


def test_a_path_that_does_not_exist_is_said_to(tmp_path, lora):
    """Not asked of the hub."""
    with pytest.raises(LoadError, match="There is no folder") as caught:
        load_for_training(tmp_path / "no" / "model", adapter=lora)

    assert caught.value.stage == "config"


def test_the_folder_of_an_adapter_is_said_to_be_one(tmp_path, lora):
    """The usual confusion."""
    lora.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="not its adapter's"):
        load_for_training(tmp_path, quantization=NONE, adapter=lora)


def test_a_failure_of_quantization_moves_down_the_ladder(checkpoint, lora, monkeypatch):
    """And only as far as was asked; the record says what was tried."""
    import bitsandbytes.functional as functional

    def refuse(*args, **kwargs):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(functional, "quantize_4bit", refuse)
    record = load_for_training(checkpoint, quantization=("nf4", "int8"), adapter=lora).record
    assert record.quantization == "int8"
    assert [(t.quantization, t.stage) for t in record.tried] == [("nf4", "quantization")]
    assert "no kernel for this device" in record.tried[0].reason

    with pytest.raises(LoadError, match="no kernel for this device") as caught:
        load_for_training(checkpoint, quantization=("nf4",), adapter=lora)
    assert caught.value.stage == "quantization"


@pytest.mark.parametrize(
    ("ladder", "free", "taken"),
    [(("int8", "nf4"), 0.95, "nf4"), (("nf4", "int8"), 0.5, None), (("none", "nf4"), 0.9, "nf4")],
)
def test_memory_moves_down_only_to_a_rung_that_needs_less(checkpoint, lora, monkeypatch, ladder, free, taken):
    """What is free is a share of what the first rung needs."""
    import torch

    from ftdoctor.training import memory

    config = make_config(checkpoint)
    first = memory.weight_bytes(config, ladder[0], torch.float32)
    extra = memory.largest_weight(config, torch.float32) if ladder[0] != "none" else 0
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free * (first + extra)))

    if taken is None:
        with pytest.raises(LoadError, match="are free on cpu") as caught:
            load_for_training(checkpoint, quantization=ladder, adapter=lora)
        assert caught.value.stage == "memory"
        assert "before that" not in str(caught.value)
    else:
        record = load_for_training(checkpoint, quantization=ladder, adapter=lora).record
        assert (record.quantization, record.tried[0].stage) == (taken, "memory")


def make_config(folder):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def test_the_tokenizer_must_fit_into_the_embeddings(checkpoint, lora):
    """An index error in the middle of training otherwise."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(checkpoint)

    with pytest.raises(LoadError, match="has 514 tokens and the model embeddings for 512") as caught:
        load_for_training(checkpoint, quantization=NONE, adapter=lora)
    assert caught.value.stage == "tokenizer"


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(make_bench, lora):
    """And the record says so."""
    bench = make_bench()
    tokenizer = bench.tokenizer()
    tokenizer.pad_token = None
    folder = bench.save(bench.model(), tokenizer)
    _, loaded, record = load_for_training(folder, quantization=NONE, adapter=lora)

    assert loaded.pad_token == loaded.eos_token
    assert any("no pad token" in note for note in record.notes)


@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_each_module_that_the_adapter_names_must_exist(checkpoint, field):
    """peft is silent as long as one of them does."""
    from peft import LoraConfig

    names = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    names[field] = [*names[field], "query_proj"]
    with pytest.raises(LoadError, match=r"'query_proj', which matches no module of LlamaForCausalLM.*q_proj") as caught:
        load_for_training(checkpoint, quantization=NONE, adapter=LoraConfig(task_type="CAUSAL_LM", **names))
    assert caught.value.stage == "adapter"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_head_that_is_trained_beside_the_adapter_is_in_float32_and_runs(checkpoint, dtype, quantization):
    """Without autocast too, in training and in generation."""
    import torch
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model, _, _ = load_for_training(checkpoint, quantization=(quantization,), dtype=dtype, adapter=adapter)
    ids = torch.arange(8)[None]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    model.eval()
    tokens = model.generate(ids, max_new_tokens=2, do_sample=False)

    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.isfinite(loss)
    assert tokens.shape == (1, 10)


def test_a_checkpoint_that_is_quantized_already_is_not_quantized_otherwise(make_bench, lora):
    """transformers keeps what is stored and only warns."""
    bench = make_bench(quantization="fp4")
    folder = bench.save(bench.load(), bench.tokenizer())

    assert load_for_training(folder, quantization=("fp4",), adapter=lora).record.quantization == "fp4"
    with pytest.raises(LoadError, match=r"quantized already \(fp4\).*would ignore nf4"):
        load_for_training(folder, quantization=("nf4",), adapter=lora)


def test_gradient_checkpointing_reaches_the_adapter(checkpoint, lora):
    """Each tensor of it has a gradient."""
    import torch

    for quantization in ("none", "nf4"):
        model, _, _ = load_for_training(checkpoint, quantization=(quantization,), adapter=lora, checkpointing=True)
        ids = torch.arange(8)[None]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

        assert all(p.grad is not None for p in model.parameters() if p.requires_grad), quantization
        assert model.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"quantization": ("nf5",)}, "no quantization 'nf5' (did you mean 'nf4'?)"),
        ({"quantization": "nf4"}, "not a ladder"),
        ({"quantization": ()}, "not a ladder"),
        ({"quantization": ("nf4", "nf4")}, "not a ladder"),
        ({"dtype": "bf16"}, "no dtype 'bf16'"),
        ({"quantization": ("nf4", "none")}, "Quantized weights cannot be trained"),
        ({"quantization": NONE, "dtype": "float16"}, "float16 cannot be trained"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(checkpoint, arguments, said):
    """Before anything is read where that is possible."""
    with pytest.raises(LoadError) as caught:
        load_for_training(checkpoint, **arguments)

    assert said in str(caught.value)


def test_versions_are_logged_once(checkpoint, lora, caplog):
    """However many models are loaded."""
    from ftdoctor.training import loader

    loader._log_versions.cache_clear()
    with caplog.at_level("INFO", "ftdoctor.training"):
        for _ in range(2):
            load_for_training(checkpoint, quantization=NONE, adapter=lora)

    assert sum("transformers 5" in r.getMessage() or "transformers 4" in r.getMessage() for r in caplog.records) == 1


def test_a_tokenizer_that_only_fails_beside_its_config_is_loaded_apart_from_it(make_bench, lora, monkeypatch):
    """As transformers 4.57.2 does with more than 100,000 tokens; here by the same mistake put into the library."""
    from transformers import PreTrainedTokenizerBase

    bench = make_bench()
    folder = shutil.copytree(bench.checkpoint(), bench.folder / "copy")
    original = PreTrainedTokenizerBase._from_pretrained.__func__

    def reads_config_as_dict(cls, resolved, name, *args, **kwargs):
        kwargs.pop("fix_mistral_regex", None)
        from pathlib import Path

        if (Path(name) / "config.json").is_file():
            json.loads((Path(name) / "config.json").read_text()).model_type  # noqa: B018
        return original(cls, resolved, name, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerBase, "_from_pretrained", classmethod(reads_config_as_dict))
    _, tokenizer, record = load_for_training(folder, quantization=NONE, adapter=lora)

    assert tokenizer.encode(bench.text) == bench.tokenizer().encode(bench.text)
    assert any("copy without config.json" in note and "'model_type'" in note for note in record.notes)
