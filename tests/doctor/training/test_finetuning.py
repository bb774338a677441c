"""A run that can be stopped anywhere, gone on with, and read about afterwards."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from ftdoctor.errors import DataError, LoadError, TrainingError, UsageError
from ftdoctor.training.recipe import Recipe

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def data(tmp_path):
    """Twelve rows of different lengths."""
    return write(tmp_path / "data.jsonl", range(12))


def write(path, numbers):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus one?" + " Please." * (n % 3)},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(make_bench):
    """Two rows a micro-batch, two of them a step, dropout on, a checkpoint a step."""
    return Recipe(
        model=str(make_bench(family="qwen3").checkpoint()),
        batch_size=2,
        gradient_accumulation=2,
        max_steps=5,
        lora_rank=4,
        save_steps=2,
    )


def weights(outcome):
    from safetensors.torch import load_file

    return load_file(outcome.adapter / "adapter_model.safetensors")


def same(one, other):
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(recipe, data, folder, **more):
    from ftdoctor.training.finetuning import finetune

    return finetune(recipe, data, folder, **more)


def test_it_leaves_an_adapter_that_the_libraries_load(recipe, data, tmp_path):
    """With its tokenizer and the rules by which messages are made at inference."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftdoctor.training.message_rules import MessageRules

    recipe = dataclasses.replace(recipe, system_prompt="Be brief.")
    outcome = run(recipe, data, tmp_path / "run")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(recipe.model), outcome.adapter)

    assert outcome.finished
    assert outcome.steps == 5
    assert any(bool(p.any()) for n, p in model.named_parameters() if "lora_B" in n)
    assert AutoTokenizer.from_pretrained(outcome.adapter).chat_template
    assert MessageRules.load(outcome.adapter).system_prompt == "Be brief."


@pytest.mark.parametrize(
    "changes", [{}, {"packing": True, "max_length": 64}, {"quantization": ("nf4",)}, {"checkpointing": True}]
)
def test_a_stopped_run_ends_as_an_undisturbed_one(recipe, data, tmp_path, changes):
    """Bit for bit, with dropout on."""
    recipe = dataclasses.replace(recipe, **changes)
    whole = run(recipe, data, tmp_path / "whole")
    steps = iter([False, False, True])
    stopped = run(recipe, data, tmp_path / "run", stop=lambda: next(steps))
    assert (stopped.finished, stopped.steps, stopped.adapter.exists()) == (False, 3, False)

    finished = run(recipe, data, tmp_path / "run")
    assert (finished.finished, finished.steps) == (True, 5)
    assert same(weights(whole), weights(finished))


def predicting(rows, folder, **more):
    """Return what makes the callback of two predictions after each step."""
    from ftdoctor.prediction import GenerationSettings, PredictionsCallback

    def callbacks(messages):
        settings = GenerationSettings(max_new_tokens=4)
        writer = folder / "predictions.db"
        return [
            PredictionsCallback(rows, when=1, count=2, messages=messages, writer=writer, settings=settings, job="j")
        ]

    return {"callbacks": callbacks, **more}


@pytest.mark.parametrize(
    "changes", [{}, {"packing": True, "max_length": 64}, {"quantization": ("nf4",)}, {"checkpointing": True}]
)
def test_a_run_that_predicts_ends_as_one_that_does_not(recipe, data, tmp_path, changes):
    """Bit for bit, also stopped and gone on with; each step that was taken has its predictions once."""
    from ftdoctor.prediction import read_predictions

    recipe = dataclasses.replace(recipe, **changes)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    whole = run(recipe, data, tmp_path / "whole")
    steps = iter([False, False, True])
    stopped = run(recipe, data, tmp_path / "run", **predicting(rows, tmp_path / "run", stop=lambda: next(steps)))
    finished = run(recipe, data, tmp_path / "run", **predicting(rows, tmp_path / "run"))
    made = read_predictions(tmp_path / "run" / "predictions.db")

    assert (stopped.steps, finished.finished) == (3, True)
    assert [(row.step, row.error) for row in made] == [(step, None) for step in range(1, 6) for _ in range(2)]
    assert same(weights(whole), weights(finished))


def test_predictions_leave_the_checkpoints_and_what_the_run_is_as_they_are(recipe, data, tmp_path):
    """Every file of a checkpoint but for the times in it, and the file that says what the run is."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    run(recipe, data, tmp_path / "one")
    run(recipe, data, tmp_path / "other", **predicting(rows, tmp_path / "other"))
    one, other = (contents(tmp_path / name / "checkpoints") for name in ("one", "other"))

    assert len(one) > 5
    assert (tmp_path / "one" / "run.json").read_bytes() == (tmp_path / "other" / "run.json").read_bytes()
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == set()


def contents(checkpoints):
    """Return what each file holds, without times; arguments name their own folder."""
    found = {}
    for path in sorted(checkpoints.rglob("*")):
        if path.is_file() and path.name != "training_args.bin":
            found[str(path.relative_to(checkpoints))] = path.read_bytes()
        if path.name == "trainer_state.json":
            state = json.loads(path.read_text())
            for entry in state["log_history"]:
                del entry["tokens_per_second"], entry["memory_gib"]
            found[str(path.relative_to(checkpoints))] = state
    return found


def test_the_time_of_callbacks_is_none_of_the_training(recipe, data, tmp_path):
    """A second after each step, and steps of some hundredths of one."""
    import time

    from transformers import TrainerCallback

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep(1)

    outcome = run(dataclasses.replace(recipe, max_steps=3), data, tmp_path / "run", callbacks=lambda messages: [Slow()])
    found = {curve["name"]: curve["values"] for curve in json.loads(outcome.summary.read_text())["curves"]}
    tokens = [n / (1 - share) for n, share in zip(found["scored_tokens_per_step"], found["masked_share"], strict=True)]

    assert all(n / rate < 0.9 for n, rate in zip(tokens, found["tokens_per_second"], strict=True))


def test_a_wish_to_stop_during_a_callback_ends_the_run_after_that_step(recipe, data, tmp_path):
    """Ctrl-C while a step's predictions are made does not wait for another step."""
    from transformers import TrainerCallback

    wishes = []

    class Wish(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            wishes.append(state.global_step)

    stopped = run(recipe, data, tmp_path / "run", callbacks=lambda messages: [Wish()], stop=lambda: bool(wishes))

    assert (stopped.finished, stopped.steps) == (False, 1)


def test_callbacks_are_asked_for_before_anything_is_made(recipe, data, tmp_path):
    """With the rules of the run; what they refuse ends it, and a finished run asks for none."""
    asked = []

    def refuse(messages):
        asked.append(messages.prompt("Who?"))
        raise DataError("no")

    recipe = dataclasses.replace(recipe, system_prompt="Be brief.", max_steps=1)
    with pytest.raises(DataError, match="no"):
        run(recipe, data, tmp_path / "run", callbacks=refuse)
    assert asked == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]]
    assert not (tmp_path / "run").exists()

    run(recipe, data, tmp_path / "run")
    assert run(recipe, data, tmp_path / "run", callbacks=refuse).finished
    assert len(asked) == 1


def test_a_checkpoint_that_was_cut_short_is_not_gone_on_from(recipe, data, tmp_path):
    """The one before it is, and nothing of the torn one is left."""
    from ftdoctor.training.run_folder import COMPLETE

    whole = run(recipe, data, tmp_path / "whole")
    steps = iter([False, False, True])
    run(recipe, data, tmp_path / "run", stop=lambda: next(steps))
    torn = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    (torn / COMPLETE).unlink()
    (torn / "optimizer.pt").write_bytes(b"torn")
    finished = run(recipe, data, tmp_path / "run")

    assert same(weights(whole), weights(finished))
    assert not torn.exists()


def test_a_finished_run_is_not_trained_again(recipe, data, tmp_path):
    """The same call returns what is there."""
    first = run(recipe, data, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = run(recipe, data, tmp_path / "run")

    assert (again.finished, again.steps) == (first.finished, first.steps)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_folder_of_another_run_is_refused_by_what_differs(recipe, data, tmp_path):
    """And so is one that holds anything else."""
    run(recipe, data, tmp_path / "run", stop=lambda: True)
    for other, file, named in (
        (dataclasses.replace(recipe, seed=1), data, "seed"),
        (recipe, write(tmp_path / "other.jsonl", range(3)), "dataset"),
    ):
        with pytest.raises(UsageError, match=f"another {named}"):
            run(other, file, tmp_path / "run")

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="none of a training run's"):
        run(recipe, data, tmp_path / "full")


def test_the_summary_says_what_happened(recipe, data, tmp_path):
    """Data, loading, batch, memory and curves over all steps, also over those before a stop."""
    run(recipe, data, tmp_path / "run", stop=lambda: True)
    outcome = run(recipe, data, tmp_path / "run")
    document = json.loads(outcome.summary.read_text())
    found = {curve["name"]: curve for curve in document["curves"]}

    assert document["schema"] == "ftdoctor.training/1"
    assert (document["finished"], document["steps"], document["planned_steps"]) == (True, 5, 5)
    assert document["data"]["labels"]["kept"] == 12
    assert document["batch_plan"] == {"asked": "2 x 2", "begun": "2 x 2", "ended": "2 x 2", "out_of_memory": []}
    assert document["memory"]["bytes"] > 0
    assert document["memory"]["measured"] > 0
    assert found["loss"]["steps"] == [1, 2, 3, 4, 5]
    assert {"grad_norm", "learning_rate", "tokens_per_second", "scored_tokens_per_step", "masked_share"} <= set(found)
    assert document["first_loss"]["possible"]


def test_earlier_examples_are_a_share_of_the_whole(recipe, data, tmp_path):
    """A fifth of it by default: 3 beside 12 new ones."""
    earlier = write(tmp_path / "earlier.jsonl", range(100, 120))
    outcome = run(recipe, data, tmp_path / "run", earlier=[earlier])
    document = json.loads(outcome.summary.read_text())

    assert document["data"]["labels"]["kept"] == 15


def test_memory_that_runs_out_shrinks_the_batch_and_the_run_goes_on(recipe, data, tmp_path, monkeypatch):
    """The summary tells it."""
    import torch

    from ftdoctor.training.sft import HardenedSFTTrainer

    original = HardenedSFTTrainer.compute_loss

    def two_do_not_fit(self, model, inputs, *args, **kwargs):
        if self.state.global_step >= 2 and len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.24 GiB.")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(HardenedSFTTrainer, "compute_loss", two_do_not_fit)
    outcome = run(recipe, data, tmp_path / "run")
    document = json.loads(outcome.summary.read_text())

    assert outcome.steps == 5
    assert document["batch_plan"]["ended"] == "1 x 4"
    assert document["batch_plan"]["out_of_memory"] == [
        "in the step after step 2; going on from step 2 with 1 x 4 instead of 2 x 2 (rows x accumulation)"
    ]


def test_an_expected_peak_shrinks_the_batch_beforehand(recipe, data, tmp_path, monkeypatch):
    """Where the estimate says that it will not fit."""
    from ftdoctor.training import memory

    monkeypatch.setattr(memory, "free_memory", lambda device: 900_000)
    document = json.loads(run(recipe, data, tmp_path / "run").summary.read_text())

    assert document["batch_plan"]["asked"] == "2 x 2"
    assert document["batch_plan"]["begun"] == "1 x 4"


def test_the_balance_of_experts_is_part_of_the_loss_by_the_weight_in_the_config(data, tmp_path, make_bench):
    """SFTTrainer asks mixtures of experts for it; a loss of one's own must not drop it."""
    from transformers import AutoConfig

    folder = make_bench(family="qwen3_moe").checkpoint()
    losses = []
    for weight in (0.0, 0.5):
        config = AutoConfig.from_pretrained(folder)
        config.router_aux_loss_coef = weight
        config.save_pretrained(folder)
        recipe = Recipe(model=str(folder), max_steps=1, lora_rank=4, target_modules=("q_proj",), lora_dropout=0.0)
        outcome = run(recipe, data, tmp_path / f"run-{weight}")
        curves = {c["name"]: c["values"] for c in json.loads(outcome.summary.read_text())["curves"]}
        losses.append(curves["loss"][0])

    # Experts that are used evenly have a balance of 1 for each of the two that a token goes to.
    assert losses[1] - losses[0] == pytest.approx(0.5 * 2, rel=0.1)


def test_what_is_trained_is_in_float32_whatever_the_trainer_makes_of_it(recipe, data, tmp_path):
    """SFTTrainer turns the adapters of quantized models into bfloat16."""
    import torch

    recipe = dataclasses.replace(recipe, quantization=("nf4",), dtype="bfloat16", max_steps=1)

    assert {w.dtype for w in weights(run(recipe, data, tmp_path / "run")).values()} == {torch.float32}


def bad(name, tmp_path, recipe):
    """Return dataset and recipe of a run that cannot be."""
    data = tmp_path / "bad.jsonl"
    good = '{"prompt": "a", "completion": "b"}\n'
    lines = {
        "broken JSON": good * 6 + '{"prompt": \n',
        "missing column": good + '{"text": "a"}\n',
        "empty": "",
        "long line": good + json.dumps({"prompt": "a" * 40_000_000, "completion": "b"}) + "\n",
        "long prompt": json.dumps({"messages": [{"role": "user", "content": "a " * 3000}, {"role": "assistant", "content": "b"}]}) + "\n",
        "no template": json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n",
    }  # fmt: skip
    data.write_text(lines.get(name, good))
    if name == "no template":
        folder = shutil.copytree(recipe.model, tmp_path / "model")
        (folder / "chat_template.jinja").unlink()
        return data, dataclasses.replace(recipe, model=str(folder))
    changes = {"long prompt": {"too_long": "error"}, "no target": {"target_modules": ("nothing",)}}
    return data, dataclasses.replace(recipe, **changes.get(name, {}))


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("broken JSON", DataError, "bad.jsonl line 7 is not JSON"),
        ("missing column", DataError, "bad.jsonl line 2 has no column to train on: it has text"),
        ("empty", DataError, "bad.jsonl is empty"),
        ("long line", DataError, "bad.jsonl line 2 is longer than 16 MiB"),
        ("long prompt", DataError, "bad.jsonl line 1 has"),
        ("no template", TrainingError, "has no chat template"),
        ("no target", LoadError, "target_modules of the adapter names 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(recipe, tmp_path, name, kind, said):
    """With file and line where there is one."""
    data, changed = bad(name, tmp_path, recipe)
    with pytest.raises(kind) as caught:
        run(changed, data, tmp_path / "run")

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_all_rows_too_long_is_said_with_their_number(recipe, data, tmp_path):
    """Not an error about an empty dataset."""
    with pytest.raises(DataError, match=r"No row of .*data.jsonl is left to train on .12 longer than max_length"):
        run(dataclasses.replace(recipe, max_length=4), data, tmp_path / "run")
