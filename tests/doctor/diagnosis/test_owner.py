"""Whose line it is."""

from __future__ import annotations

import json
import sys

import click
import pytest

from ftdoctor.diagnosis.owner import culprit_of, frame_of, frames_of
from ftdoctor.results import Frame


def raised_by(call):
    try:
        call()
    except Exception:
        return frames_of(sys.exc_info()[2])
    raise AssertionError("it did not raise")


def test_the_distribution_of_the_raising_frame_is_named_with_version_file_and_line():
    """From its installed files."""
    frames = raised_by(lambda: click.IntRange(min=1).convert("x", None, None))
    culprit = culprit_of(frames)

    assert (culprit.distribution, culprit.file) == ("click", "click/types.py")
    assert culprit.version == __import__("importlib.metadata").metadata.version("click")
    assert culprit.line > 0


def test_the_standard_library_is_never_the_culprit():
    """It raises what others hand to it."""
    frames = raised_by(lambda: json.loads("{"))

    assert frames[-1].distribution == "python"
    assert culprit_of(frames) is None


def test_a_library_that_only_does_what_it_is_told_is_blamed_last():
    """The matrix product raises what the model's code handed to it."""
    model = Frame("transformers", "5.0", "transformers/models/llama/modeling_llama.py", 10)
    torch = Frame("torch", "2.13", "torch/nn/modules/linear.py", 134)

    assert culprit_of([model, torch]).distribution == "transformers"
    assert culprit_of([torch]).distribution == "torch"
    assert culprit_of([]) is None


def test_the_line_of_a_definition_is_found_through_methods_and_decorators():
    """A function, a method, a class."""
    assert frame_of(click.echo).file == "click/utils.py"
    assert frame_of(click.Group.add_command).function == "Group.add_command"
    assert frame_of(click.Group).distribution == "click"


@pytest.mark.parametrize("thing", [len, 3, "text"])
def test_what_has_no_source_has_no_line(thing):
    """Nothing is invented."""
    assert frame_of(thing) is None
