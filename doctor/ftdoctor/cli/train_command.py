"""`ftdoctor train`: fine-tune an adapter on a JSON Lines file with all components, resumable."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftdoctor.cli import options
from ftdoctor.training import recipe as recipes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.cli.training import Predictions
    from ftdoctor.training.finetuning import Outcome

INTERRUPTED = 130
FAILED = 1
METAVARS = {"model": "PATH", "predict_on": "FILE"}
SETTINGS = (recipes.Recipe, recipes.PredictionPlan)
"""What each option, but for those of this command alone, is a field of; a configuration file has the same names."""


@functools.cache
def _documented() -> dict[str, str]:
    """Return the sentence that stands under each setting: it is the option's help too."""
    trees = [ast.parse(inspect.getsource(kind)).body[0] for kind in SETTINGS]
    pairs = [pair for tree in trees if isinstance(tree, ast.ClassDef) for pair in itertools.pairwise(tree.body)]
    found = {}
    for field, text in pairs:
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = str(text.value.value)
    return found


def _recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting, in their order."""
    for field in reversed([field for kind in SETTINGS for field in dataclasses.fields(kind)]):
        flag = "--" + field.name.replace("_", "-")
        default = None if field.default is dataclasses.MISSING else field.default
        choices = recipes.CHOICES.get(field.name)
        shown = f"  [default: {_shown(default)}]" if default not in (None, "", False) else ""
        arguments: dict[str, Any] = {"help": _documented()[field.name] + shown, "default": None}
        if isinstance(default, bool):
            flag = f"{flag}/--no-{flag[2:]}"
        elif isinstance(default, (int, float)):
            arguments["type"] = type(default)
        elif choices and not isinstance(default, tuple):
            arguments["type"] = click.Choice([c for c in choices if c])
        else:
            arguments["metavar"] = "LIST" if isinstance(default, tuple) else "TEXT"
        if field.name in METAVARS:
            arguments["metavar"] = METAVARS[field.name]
        function = click.option(flag, field.name, **arguments)(function)
    return function


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


@click.command(context_settings={"show_default": False})
@click.option("--dataset", required=True, metavar="FILE", help="JSON Lines file: messages, or prompt and completion.")
@click.option(
    "--output-dir", required=True, metavar="FOLDER", help="Folder of the run; the same again goes on with it."
)
@click.option(
    "--config", "config", metavar="FILE", help="TOML file of the options below; the command line wins over it."
)
@click.option(
    "--replay", "earlier", multiple=True, metavar="FILE", help="File of earlier examples to mix in; repeatable."
)
@_recipe_options
@click.option("--online", is_flag=True, help="Allow the hub to be asked for the model.")
@options.json_flag
@click.option("--quiet", "-q", is_flag=True, help="Print the last line only.")
@click.pass_context
def command(ctx: click.Context, /, **chosen: Any) -> None:
    """Fine-tune an adapter on a JSON Lines file.

    Everything that can be wrong is found before the first step; a run that was stopped or killed goes on with the
    same command. The folder holds the adapter, checkpoints, and a summary with curves (summary.html, summary.json).

    Exit status: 0 finished, 1 the training failed, 2 wrong usage or data, 130 stopped with a checkpoint.
    """
    from ftdoctor.cli.training import Predictions, Screen, stopped_by_signals, train
    from ftdoctor.errors import NonFiniteError

    recipe, plan = _settings(chosen)
    if chosen["online"]:
        os.environ["HF_HUB_OFFLINE"] = "0"
    screen = Screen(options.console(stderr=True), quiet=chosen["quiet"])
    earlier = [Path(file) for file in chosen["earlier"]]
    dataset, folder, outcome = Path(chosen["dataset"]), Path(chosen["output_dir"]), None
    predictions = Predictions(plan, recipe.seed, dataset, folder) if plan.predict_every else None
    try:
        with stopped_by_signals() as stop, screen.progress() as progress:
            outcome = train(recipe, dataset, folder, earlier, stop, progress, predictions)
    except NonFiniteError as error:
        click.echo(f"ftdoctor: {error}", err=True)
        ctx.exit(FAILED)
    finally:
        if predictions and not chosen["quiet"]:
            _tell(predictions, outcome)
    click.echo(outcome.summary.read_text(encoding="utf-8") if chosen["as_json"] else _verdict(outcome))
    ctx.exit(0 if outcome.finished else INTERRUPTED)


def _settings(chosen: dict[str, Any]) -> tuple[recipes.Recipe, recipes.PredictionPlan]:
    """Return the recipe, and the plan of predictions, of configuration file and command line."""
    known = [[field.name for field in dataclasses.fields(kind)] for kind in SETTINGS]
    names = [name for group in known for name in group]
    given = {name: chosen[name] for name in names if chosen[name] is not None}
    source = "the command line"
    if chosen["config"]:
        path = Path(chosen["config"])
        source, given = str(path), {**_beside(recipes.read_settings(path), path), **given}
        recipes.refuse_unknown(given, names, source)
    plan = {name: given.pop(name) for name in known[1] if name in given}
    return recipes.Recipe.of(given, source), recipes.PredictionPlan.of(plan, source)


def _beside(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return settings in which a file that lies beside the configuration stands with its path, as the model does."""
    name = settings.get("predict_on")
    if isinstance(name, str) and name and (path.parent / name).is_file():
        return {**settings, "predict_on": str((path.parent / name).resolve())}
    return settings


def _tell(predictions: Predictions, outcome: Outcome | None) -> None:
    line = predictions.told(outcome)
    if line:
        click.echo(line, err=True)


def _verdict(outcome: Outcome) -> str:
    if outcome.finished:
        return f"adapter: {outcome.adapter} ({outcome.steps} steps); summary: {outcome.summary.with_suffix('.html')}"
    return f"stopped after step {outcome.steps} with a checkpoint; the same command goes on from there"
