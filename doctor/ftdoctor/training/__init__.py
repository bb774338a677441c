"""The parts of a fine-tuning script that go wrong silently, done right; each is usable alone in a plain Trainer.

Nothing of the stack is imported before one of these names is asked for. Which file belongs to what:

    loading     loader, its stages, adapters, memory
    messages    data (reading files), messages, message_rules, conversations, contents, duplicates
    labels      labels, label_counts, rendering, marks, tokenizing, truncating, collator
    packing     packing, packed_batches
    loss        loss
    guard       guard, bad_batches, origin (the first module that is not finite), undo
    batch       batch_plan, rng
    replay      replay
    health      health
    train       recipe, finetuning, sft (the trainer), run_folder, summary
    inbox       inbox, jobs, arrivals, durable
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftdoctor.lazy import exports

if TYPE_CHECKING:
    from ftdoctor.training.batch_plan import BatchPlan, Shrunk, Trained, train_within_memory
    from ftdoctor.training.collator import PaddingCollator
    from ftdoctor.training.data import Row, read_rows
    from ftdoctor.training.finetuning import Outcome, finetune
    from ftdoctor.training.guard import BadBatch, GuardRecord, GuardSettings, NonFiniteGuard
    from ftdoctor.training.health import HealthLog, HealthRecord, Verdict, first_loss_verdict
    from ftdoctor.training.label_counts import LabelCounts
    from ftdoctor.training.labels import Encoder, encode_completion, encode_messages, shown
    from ftdoctor.training.loader import Loaded, LoadRecord, load_for_training, load_tokenizer
    from ftdoctor.training.loss import TokenMeanLoss, aligned_loss, token_mean_loss
    from ftdoctor.training.memory import StepMemory, free_memory, step_memory
    from ftdoctor.training.message_rules import MessageCounts, MessageRules
    from ftdoctor.training.messages import Messages
    from ftdoctor.training.packed_batches import PackedCollator, keeps_apart, packed_collator
    from ftdoctor.training.packing import PackingCounts, pack_rows
    from ftdoctor.training.recipe import Recipe, read_recipe
    from ftdoctor.training.replay import Cursor, Mixed, MixedStream, mix

__all__ = [
    "BadBatch",
    "BatchPlan",
    "Cursor",
    "Encoder",
    "GuardRecord",
    "GuardSettings",
    "HealthLog",
    "HealthRecord",
    "LabelCounts",
    "LoadRecord",
    "Loaded",
    "MessageCounts",
    "MessageRules",
    "Messages",
    "Mixed",
    "MixedStream",
    "NonFiniteGuard",
    "Outcome",
    "PackedCollator",
    "PackingCounts",
    "PaddingCollator",
    "Recipe",
    "Row",
    "Shrunk",
    "StepMemory",
    "TokenMeanLoss",
    "Trained",
    "Verdict",
    "aligned_loss",
    "encode_completion",
    "encode_messages",
    "finetune",
    "first_loss_verdict",
    "free_memory",
    "keeps_apart",
    "load_for_training",
    "load_tokenizer",
    "mix",
    "pack_rows",
    "packed_collator",
    "read_recipe",
    "read_rows",
    "shown",
    "step_memory",
    "token_mean_loss",
    "train_within_memory",
]

_HOMES = {
    "batch_plan": ("BatchPlan", "Shrunk", "Trained", "train_within_memory"),
    "collator": ("PaddingCollator",),
    "data": ("Row", "read_rows"),
    "finetuning": ("Outcome", "finetune"),
    "guard": ("BadBatch", "GuardRecord", "GuardSettings", "NonFiniteGuard"),
    "health": ("HealthLog", "HealthRecord", "Verdict", "first_loss_verdict"),
    "label_counts": ("LabelCounts",),
    "labels": ("Encoder", "encode_completion", "encode_messages", "shown"),
    "loader": ("LoadRecord", "Loaded", "load_for_training", "load_tokenizer"),
    "loss": ("TokenMeanLoss", "aligned_loss", "token_mean_loss"),
    "memory": ("StepMemory", "free_memory", "step_memory"),
    "message_rules": ("MessageCounts", "MessageRules"),
    "messages": ("Messages",),
    "packed_batches": ("PackedCollator", "keeps_apart", "packed_collator"),
    "packing": ("PackingCounts", "pack_rows"),
    "recipe": ("Recipe", "read_recipe"),
    "replay": ("Cursor", "Mixed", "MixedStream", "mix"),
}
__getattr__ = exports(__name__, _HOMES, globals())
