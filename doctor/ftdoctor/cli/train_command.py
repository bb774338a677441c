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

    from ftdoctor.training.finetuning import Outcome

INTERRUPTED = 130
FAILED = 1


@functools.cache
def _documented() -> dict[str, str]:
    """Return the sentence that stands under each field of a recipe: it is the option's help too."""
    tree = ast.parse(inspect.getsource(recipes.Recipe))
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = str(text.value.value)
    return found


def _recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of a recipe, in their order."""
    for field in reversed(dataclasses.fields(recipes.Recipe)):
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
        if field.name == "model":
            arguments["metavar"] = "PATH"
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
    from ftdoctor.cli.training import Screen, stopped_by_signals, train
    from ftdoctor.errors import NonFiniteError

    recipe = _recipe(chosen)
    if chosen["online"]:
        os.environ["HF_HUB_OFFLINE"] = "0"
    screen = Screen(options.console(stderr=True), quiet=chosen["quiet"])
    earlier = [Path(file) for file in chosen["earlier"]]
    try:
        with stopped_by_signals() as stop, screen.progress() as progress:
            outcome = train(recipe, Path(chosen["dataset"]), Path(chosen["output_dir"]), earlier, stop, progress)
    except NonFiniteError as error:
        click.echo(f"ftdoctor: {error}", err=True)
        ctx.exit(FAILED)
    click.echo(outcome.summary.read_text(encoding="utf-8") if chosen["as_json"] else _verdict(outcome))
    ctx.exit(0 if outcome.finished else INTERRUPTED)


def _recipe(chosen: dict[str, Any]) -> recipes.Recipe:
    """Return the recipe of configuration file and command line."""
    names = [field.name for field in dataclasses.fields(recipes.Recipe)]
    given = {name: chosen[name] for name in names if chosen[name] is not None}
    if not chosen["config"]:
        return recipes.Recipe.of(given, "the command line")
    path = Path(chosen["config"])
    return recipes.Recipe.of({**recipes.read_settings(path), **given}, str(path))


def _verdict(outcome: Outcome) -> str:
    if outcome.finished:
        return f"adapter: {outcome.adapter} ({outcome.steps} steps); summary: {outcome.summary.with_suffix('.html')}"
    return f"stopped after step {outcome.steps} with a checkpoint; the same command goes on from there"
