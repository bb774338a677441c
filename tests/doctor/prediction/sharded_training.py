"""One of two processes that train a sharded model on a CPU, and predict meanwhile: what `test_sharded.py` starts.

    RANK=0 WORLD_SIZE=2 ... python sharded_training.py FOLDER KIND...

Writes what it finds to FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType, PartialState
from peft import get_peft_model
from torch.distributed import fsdp
from torch.distributed.fsdp import _init_utils
from transformers import TrainerCallback

from ftdoctor.bench import Bench
from ftdoctor.cells import Cell
from ftdoctor.prediction import GenerationSettings, PredictionGenerator, PredictionsCallback, sharded
from ftdoctor.settings import Settings

RANK = int(os.environ["RANK"])
STEPS = 4
SETTINGS = GenerationSettings(max_new_tokens=6, batch_size=2)
QUESTIONS = ["What is this?", "Why?", "Say a longer thing than that."]


def shard_on_a_cpu(args):
    """Have FSDP where accelerate and torch would take it for graphics cards alone."""
    args.device  # noqa: B018 - makes the state
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    begin = fsdp.FullyShardedDataParallel.__init__
    if begin.__name__ == "__init__":

        def on_a_cpu(self, *arguments, **more):
            begin(self, *arguments, **{**more, "device_id": torch.device("cpu")})

        fsdp.FullyShardedDataParallel.__init__ = on_a_cpu
        _init_utils._get_compute_device = lambda *arguments: torch.device("cpu")


def new_model(bench):
    """Return the cell's model with dropout, and its adapter; made, not loaded, for one process alone saves."""
    model = bench.model()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    if bench.adapter() is None:
        return model
    torch.manual_seed(0)
    return get_peft_model(model, bench.adapter())


def build(folder, kind, adapter, *callbacks):
    """Return a trainer with dropout on rows that the two processes take in turns."""
    AcceleratorState._reset_state(True)
    bench = Bench(Cell.of({"adapter": adapter, "trainer": "plain"}), folder, Settings(cache=str(folder)))
    values = {"max_steps": STEPS, "per_device_train_batch_size": 1, "ddp_backend": "gloo", "save_strategy": "no"}
    wraps = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "sync_module_states": False}
    if kind == "deepspeed":
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        values["deepspeed"] = {"zero_optimization": zero, "train_micro_batch_size_per_gpu": 1}
    elif kind != "ddp":
        version = 2 if kind == "fsdp2" else 1
        os.environ["FSDP_VERSION"] = str(version)  # where transformers 4 leaves it to accelerate
        values |= {"fsdp": True, "fsdp_config": {"version": version, **wraps}}
    args = bench.arguments(**values)
    if kind.startswith("fsdp"):
        shard_on_a_cpu(args)
    return bench.trainer(new_model(bench), bench.tokenizer(), args, rows=2 * STEPS, callbacks=list(callbacks))


def whole(model):
    """Return the weights of a sharded model, in full, by their own names."""
    parameters = dict(model.named_parameters())
    if any(hasattr(p, "ds_id") for p in parameters.values()):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            return {n: p.detach().clone() for n, p in parameters.items()}
    if isinstance(model, fsdp.FullyShardedDataParallel):
        with fsdp.FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return {n.replace("_fsdp_wrapped_module.", ""): p.detach().clone() for n, p in model.named_parameters()}
    return {n: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for n, p in parameters.items()}


def state(model):
    """Return what of a model must be as before: its parts in this process, and what is attached to them."""
    parts = {n: getattr(p, "ds_tensor", getattr(p, "_local_tensor", p)) for n, p in model.named_parameters()}
    told = {n: (type(p).__name__, tuple(p.shape), p.requires_grad, p.grad is None) for n, p in model.named_parameters()}
    return (
        told,
        {n: p.detach().clone() for n, p in parts.items()},
        [m.training for m in model.modules()],
        set(vars(model)),
    )


def busy(model):
    """Return the modules that are still in the middle of something, and so would skip the beginning of the next."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, fsdp.FSDPModule):
            there = module._get_fsdp_state()
            at = [there._training_state, *(group._training_state for group in there._fsdp_param_groups)]
            found += [name] if any(s.name != "IDLE" for s in at) or there._state_ctx.iter_forward_root else []
        if isinstance(module, fsdp.FullyShardedDataParallel):
            at = [module.training_state, module._handle._training_state]
            found += [name] if any(s.name != "IDLE" for s in at) else []
    return found + [n for n, p in model.named_parameters() if getattr(p, "ds_active_sub_modules", None)]


class Watched(TrainerCallback):
    """Compares predictions with those of a whole copy, and the model before and after, at step 2; fails at step 3."""

    def __init__(self, copy, tokenizer):
        self.copy, self.generator, self.found = copy, PredictionGenerator(tokenizer, SETTINGS), {}

    def on_train_begin(self, args, progress, control, *, model, **more):
        if hasattr(model, "peft_config"):
            vars(model).pop("generate", None)  # what the Trainer of transformers 4 does not do for FSDP 2
        self.found["before the first step"] = self.same(model)

    def on_step_end(self, args, progress, control, *, model, **more):
        if progress.global_step == 2:
            self.found["sharding"] = [(s := sharded.sharding_of(model)).kind, s.processes]
            self.found["same"] = self.same(model)
        if progress.global_step == 3:
            self.fail(model)

    def same(self, model):
        told, parts, modes, names = state(model)
        made = self.generator.generate(model, QUESTIONS)
        after = state(model)
        self.found["changed"] = [n for n in told if told[n] != after[0][n] or not torch.equal(parts[n], after[1][n])]
        self.found["left"] = modes == after[2] and names == after[3]
        self.copy.load_state_dict(whole(model), strict=False)
        there = sharded.sharding_of
        sharded.sharding_of = lambda model: sharded.Sharding()
        expected = PredictionGenerator(self.generator.tokenizer, SETTINGS).generate(self.copy, QUESTIONS)
        sharded.sharding_of = there
        return [p.token_ids == e.token_ids and p.error is None for p, e in zip(made, expected, strict=True)]

    def fail(self, model):
        """Break off in the middle of a forward, in both processes."""
        calls = []

        def breaks(module, arguments, output):
            calls.append(module)
            if len(calls) > 2:
                raise ValueError("broken off")

        (layer, *_) = [m for m in model.modules() if type(m).__name__.endswith("LlamaMLP")]
        hook, (told, _, _, _) = layer.register_forward_hook(breaks), state(model)
        made = self.generator.generate(model, QUESTIONS)
        hook.remove()
        self.found["after a failure"] = [told == state(model)[0], busy(model), [p.finish for p in made]]


def losses(trainer):
    """Train, and return what was logged."""
    trainer.train()
    return [[h["loss"], float(h["grad_norm"])] for h in trainer.state.log_history if "loss" in h]


def run(folder, kind, adapter):
    """Train without and with predictions."""
    expected = losses(build(folder, kind, adapter))
    bench = Bench(Cell.of({"adapter": adapter}), folder, Settings(cache=str(folder)))
    copy, tokenizer = new_model(bench), bench.tokenizer()
    watched = Watched(copy, tokenizer)
    rows = [{"prompt": q, "completion": "So."} for q in QUESTIONS]
    writes = PredictionsCallback(rows, when=2, writer=str(folder / "rows.jsonl"), settings=SETTINGS, strict=True)
    trainer = build(folder, kind, adapter, watched, writes)
    found = losses(trainer)
    return {**watched.found, "losses": expected, "with predictions": found, "written": writes.counts.written}


def tensor_parallel():
    """Return the sharding of a model of one spread tensor, and what two processes agree on."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    model = torch.nn.Linear(4, 4)
    model.weight = torch.nn.Parameter(distribute_tensor(model.weight, init_device_mesh("cpu", (2,)), [Shard(0)]))
    known = sharded.sharding_of(model)
    answers = [sharded.agree(ok, known) for ok in (True, RANK == 0, RANK == 1, False)]
    return [known.kind, known.processes, answers, sharded.agree(RANK == 0, sharded.Sharding())]


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    own = target / f"process-{RANK}"
    own.mkdir()
    results = {f"{kind} {adapter}": run(own, kind, adapter) for kind in sys.argv[2:] for adapter in ("none", "lora")}
    if "fsdp2" in sys.argv:
        results["tensor"] = tensor_parallel()
    (target / f"{RANK}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
