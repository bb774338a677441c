"""The plan: covering, sorted, and nothing left out without a reason."""

from __future__ import annotations

import itertools

import pytest

import ftdoctor_matrix as matrix
from ftdoctor.cells import Cell
from ftdoctor.probe import probe
from ftdoctor.runner.plan import Choice, Here, plan

STACK = dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes", "trl"), "1.0")
NO_GPU = {"gpus": [], "gpu_note": "no driver"}
OLD_GPU = {"gpus": [{"name": "Tesla T4", "capability": "7.5"}], "gpu_note": ""}
NEW_GPU = {"gpus": [{"name": "H200", "capability": "9.0"}], "gpu_note": ""}


def made(name="promise", area="loading", **more):
    def function(bench, check): ...

    function.__name__ = name
    return probe(area=area, **more)(function)


def planned(probe_, profile="default", machine=NO_GPU, stack=STACK, **more):
    choice = Choice({probe_.name: probe_}, matrix.profiles()[profile], matrix.axes(), matrix.impossible(), **more)
    return plan(choice, Here.of(machine, stack))


def runs(items):
    return [p.cell for p in items if not p.skip]


def skips(items):
    return {str(p.cell): p.skip for p in items if p.skip}


def test_a_probe_without_axes_is_one_cell():
    """The empty one."""
    assert runs(planned(made())) == [Cell()]


def test_quick_is_the_default_cell_and_each_vocabulary():
    """One factor at a time."""
    cells = runs(planned(made(axes=("family", "vocabulary", "dtype")), "quick"))

    assert [str(c) for c in cells] == [
        "dtype=float32 family=llama vocabulary=512",
        "dtype=float32 family=llama vocabulary=128k",
    ]


@pytest.mark.parametrize(("profile", "strength"), [("default", 2), ("full", 3)])
def test_every_combination_of_as_many_axes_as_the_profile_says_occurs(profile, strength):
    """Pairs in `default`, triples in `full`; the default cell first."""
    names = ("family", "vocabulary", "dtype", "attention", "checkpointing")
    cells = runs(planned(made(axes=names), profile))
    axes = matrix.axes()
    wanted = {
        tuple(zip(group, values, strict=True))
        for group in itertools.combinations(names, strength)
        for values in itertools.product(*(axes[a].values for a in group))
    }
    seen = {tuple((a, c[a]) for a in group) for c in cells for group in itertools.combinations(names, strength)}

    assert cells[0] == Cell.of({a: axes[a].default for a in names})
    assert wanted <= seen
    assert len(cells) < 6 * 2 * 3 * 2 * 3


def test_impossible_combinations_are_not_planned_and_all_others_are_covered():
    """Quantized weights without an adapter."""
    cells = runs(planned(made(axes=("quantization", "adapter", "dtype"))))
    pairs = {(c["quantization"], c["adapter"]) for c in cells}

    assert pairs == {("none", "none")} | set(itertools.product(("none", "nf4", "fp4", "int8"), ("lora", "lora_head")))


def test_without_a_gpu_each_probe_of_a_device_says_once_that_it_was_not_examined_there():
    """And the CPU is covered in full."""
    items = planned(made(axes=("family", "device")))

    assert skips(items) == {"device=cuda": "this machine has no CUDA device: no driver"}
    assert {c["device"] for c in runs(items)} == {"cpu"}
    assert len(runs(items)) == 6


def test_with_a_gpu_quick_examines_it_alone_and_default_both():
    """What a job would use first."""
    quick = planned(made(axes=("family", "device")), "quick", NEW_GPU)
    default = planned(made(axes=("family", "device")), "default", NEW_GPU)

    assert {c["device"] for c in runs(quick)} == {"cuda"}
    assert {c["device"] for c in runs(default)} == {"cpu", "cuda"}


def test_a_value_that_does_not_exist_on_a_device_is_skipped_with_its_sentence():
    """fp16 training on a CPU."""
    items = planned(made(axes=("mixed_precision", "device")))

    assert "accelerate refuses it on a CPU" in skips(items)["device=cpu mixed_precision=fp16"]
    assert {c["mixed_precision"] for c in runs(items)} == {"none", "bf16"}


def test_an_old_gpu_has_no_bfloat16():
    """By its capability, with its name."""
    items = planned(
        made(axes=("mixed_precision", "device")), "quick", OLD_GPU, selection={"mixed_precision": ("bf16",)}
    )

    assert skips(items) == {"device=cuda mixed_precision=bf16": "Tesla T4 (capability 7.5) has no bfloat16 arithmetic"}
    assert runs(items) == []


def test_what_is_not_installed_is_named():
    """For the probe as a whole, and for single values."""
    assert skips(planned(made(needs=("trl", "nothing")))) == {"": "nothing is not installed"}
    without = {k: v for k, v in STACK.items() if k != "bitsandbytes"}
    items = planned(made(axes=("quantization",)), stack=without)

    assert set(skips(items).values()) == {"bitsandbytes is not installed"}
    assert runs(items) == [Cell.of({"quantization": "none"})]


def test_only_narrows_an_axis_to_where_the_promise_makes_sense():
    """No cell outside of it, skipped or not."""
    items = planned(made(axes=("quantization",), only={"quantization": ("nf4", "int8")}))

    assert [p.cell["quantization"] for p in items] == ["nf4", "int8"]


def test_a_selection_leaves_out_probes_that_do_not_have_its_axes():
    """`--cell vocabulary=128k` is a question about vocabularies."""
    assert planned(made(axes=("family",)), selection={"vocabulary": ("128k",)}) == []
    cells = runs(planned(made(axes=("family", "vocabulary")), "quick", selection={"vocabulary": ("128k",)}))

    assert [str(c) for c in cells] == ["family=llama vocabulary=128k"]


def test_the_users_own_model_decides_family_and_vocabulary():
    """So that these are no axes any more."""
    cells = runs(planned(made(axes=("family", "vocabulary", "attention")), own_model=True))

    assert [str(c) for c in cells] == ["attention=sdpa", "attention=eager"]


def test_the_reference_profile_is_five_configurations():
    """Those that need a GPU are skipped without one."""
    axes = ("family", "quantization", "dtype", "mixed_precision", "adapter", "device")
    on_gpu = planned(made(axes=axes, area="training"), "reference", NEW_GPU)
    on_cpu = planned(made(axes=axes, area="training"), "reference", NO_GPU)

    assert len([c for c in runs(on_gpu) if c["device"] == "cuda"]) == 5
    assert len(runs(on_cpu)) == 4
    assert any("fp16 mixed precision needs a GPU" in reason for reason in skips(on_cpu).values())


def test_the_same_question_gives_the_same_plan():
    """So that a run can be resumed and two machines compared."""
    names = ("family", "quantization", "dtype", "attention", "adapter")

    assert planned(made(axes=names), "full") == planned(made(axes=names), "full")
