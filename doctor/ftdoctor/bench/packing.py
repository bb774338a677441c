"""Keeps one known fault of bitsandbytes out of the probes that measure something else."""

from __future__ import annotations

from typing import Any


def keep_unpacked(model: Any) -> Any:
    """Tell 4-bit layers not to repack themselves for CPUs with AVX512-BF16, and return the model.

    bitsandbytes repacks a 4-bit layer at its first forward in eval mode and afterwards passes no gradient through
    it. The probe `train-after-eval` measures that; no other verdict may depend on the processor because of it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
