"""A recipe is checked when it is made, says in one sentence what is wrong, and is the same thing everywhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from ftdoctor.errors import ConfigError
from ftdoctor.training import recipe as module
from ftdoctor.training.recipe import Recipe, read_recipe


@pytest.fixture
def written(tmp_path):
    """Write a configuration file and return its path."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_model_is_all_that_a_recipe_needs():
    """The rest has its default."""
    recipe = Recipe.of({"model": "llama"}, "config.toml")

    assert recipe == Recipe(model="llama")
    assert (recipe.batch_size, recipe.gradient_accumulation, recipe.replay_share) == (2, 4, 0.2)


def test_values_are_taken_as_a_person_writes_them():
    """A list, a text with commas, a whole number for a fraction."""
    recipe = Recipe.of(
        {"model": "m", "quantization": "nf4, int8", "target_modules": ["q_proj", "v_proj"], "epochs": 2}, "config.toml"
    )

    assert recipe.quantization == ("nf4", "int8")
    assert recipe.target_modules == ("q_proj", "v_proj")
    assert (recipe.epochs, type(recipe.epochs)) == (2.0, float)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "m", "learning_rat": 1}, "there is no setting 'learning_rat' (did you mean 'learning_rate'?); there are model, "),
        ({"epochs": 1}, "the setting 'model' is missing; name the folder or the hub id of a model."),
        ({"model": " "}, "model is empty; name the folder or the hub id of a model."),
        ({"model": 3}, "model = 3 is not a text."),
        ({"model": "m", "batch_size": 0}, "batch_size = 0 is out of bounds; it must be at least 1."),
        ({"model": "m", "batch_size": 1.5}, "batch_size = 1.5 is not a whole number."),
        ({"model": "m", "batch_size": True}, "batch_size = True is not a whole number."),
        ({"model": "m", "epochs": 0}, "epochs = 0.0 is out of bounds; it must be above 0."),
        ({"model": "m", "epochs": True}, "epochs = True is not a number."),
        ({"model": "m", "learning_rate": float("nan")}, "learning_rate = nan is not a finite number."),
        ({"model": "m", "learning_rate": float("inf")}, "learning_rate = inf is not a finite number."),
        ({"model": "m", "replay_share": 1}, "replay_share = 1.0 is out of bounds; it must be at least 0 and below 1."),
        ({"model": "m", "seed": 2**32}, "seed = 4294967296 is out of bounds; it must be at least 0 and below 4294967296."),
        ({"model": "m", "packing": 1}, "packing = 1 is not true or false."),
        ({"model": "m", "quantization": "nf5"}, "quantization cannot be 'nf5' (did you mean 'nf4'?); it can be nf4, fp4, int8, none."),
        ({"model": "m", "quantization": []}, "quantization = [] is not a list of names."),
        ({"model": "m", "quantization": ["nf4", "nf4"]}, "quantization = ['nf4', 'nf4'] names the same twice."),
        ({"model": "m", "attention": "spda"}, "attention cannot be 'spda' (did you mean 'sdpa'?); it can be '', sdpa, eager, flash_attention_2."),
        ({"model": "m", "scheduler": "cosin"}, "scheduler cannot be 'cosin' (did you mean 'cosine'?); it can be linear, cosine, "),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_it_does_not_understand_is_named_with_its_source(settings, sentence):
    """One sentence: source, setting, way out."""
    with pytest.raises(ConfigError) as caught:
        Recipe.of(settings, "config.toml")

    assert str(caught.value).startswith(f"config.toml: {sentence}")


def test_no_recipe_exists_that_was_not_checked():
    """Also where it is made directly."""
    with pytest.raises(ConfigError, match="batch_size = 0 is out of bounds"):
        Recipe(model="m", batch_size=0)


@pytest.mark.parametrize("name", module.CHOICES)
def test_every_choice_that_is_listed_can_be_made(name):
    """And its default is among them."""
    for value in module.CHOICES[name]:
        Recipe.of({"model": "m", name: value}, "x")
    default = getattr(Recipe(model="m"), name)

    assert set(default if isinstance(default, tuple) else (default,)) <= set(module.CHOICES[name])


def test_every_number_has_its_bounds():
    """A new one cannot be forgotten."""
    numbers = {f.name for f in dataclasses.fields(Recipe) if type(f.default) in (int, float)}

    assert numbers == set(module.RANGES)


@pytest.mark.stack
@pytest.mark.parametrize("name", module.CHOICES["scheduler"])
def test_transformers_knows_every_scheduler(name):
    """By its name, without further arguments."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=10)

    assert scheduler.get_last_lr() == [1.0 if name == "constant" else 0.0]


def test_a_file_is_read_and_its_inbox_table_left_alone(written):
    """The inbox reads that one."""
    path = written('model = "m"\nquantization = ["nf4", "none"]\nlora_rank = 8\n[inbox]\nsettle = 1\n')

    assert read_recipe(path) == Recipe(model="m", quantization=("nf4", "none"), lora_rank=8)


def test_a_model_beside_the_file_is_found_from_anywhere(written, tmp_path, monkeypatch):
    """And an id of the hub stays what it is."""
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir("/")

    assert read_recipe(written('model = "models/tiny"')).model == str((tmp_path / "models" / "tiny").resolve())
    assert read_recipe(written('model = "someone/tiny"')).model == "someone/tiny"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("model = ", " is not valid TOML: "), ("modle = 'm'", ": there is no setting 'modle' (did you mean 'model'?)")],
)
def test_a_file_with_a_mistake_is_named(written, text, sentence):
    """Before anything is loaded."""
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)

    assert str(caught.value).startswith(f"{path}{sentence}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    """With the system's reason."""
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file or directory\."):
        read_recipe(tmp_path / "none.toml")


def test_a_recipe_survives_json():
    """A job keeps the one it began with."""
    recipe = Recipe(model="m", quantization=("nf4", "none"), learning_rate=1e-5, seed=3)

    assert Recipe.of(json.loads(json.dumps(recipe.as_dict())), "job.json") == recipe


def test_the_fingerprint_is_that_of_every_field():
    """Each of them changes it."""
    recipe = Recipe(model="m")
    other = {
        "model": "n", "quantization": ("nf4",), "dtype": "bfloat16", "attention": "eager", "contents": "refuse", "turns": "last",
        "too_long": "error", "scheduler": "linear", "mixed_precision": "bf16", "system_prompt": "Be brief.", "target_modules": ("q_proj",),
        "warmup_ratio": 0.5, "lora_dropout": 0.5, "replay_share": 0.5,
    }  # fmt: skip
    changed = []
    for field in dataclasses.fields(Recipe):
        now = getattr(recipe, field.name)
        value = other[field.name] if field.name in other else (not now if isinstance(now, bool) else now + 1)
        changed.append(dataclasses.replace(recipe, **{field.name: value}).fingerprint())

    assert len({recipe.fingerprint(), *changed}) == len(dataclasses.fields(Recipe)) + 1


def test_the_fingerprint_is_the_same_in_every_process():
    """Whatever the hash seed, and for 1 as for 1.0."""
    program = "from ftdoctor.training.recipe import Recipe; print(Recipe(model='m', epochs=1).fingerprint())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert told == {Recipe(model="m", epochs=1.0).fingerprint()}
