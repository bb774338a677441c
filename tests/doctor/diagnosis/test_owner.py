"""Whose line it is."""

from __future__ import annotations

import json
import sys

import click
import pytest

from ftdoctor.diagnosis.owner import culprit_of, frame_of, frames_of, frames_of_dump
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


def test_what_is_raised_while_a_module_is_imported_is_its_own():
    """A torch that cannot be imported is at fault, not whoever imports it."""
    importer = Frame("transformers", "5.0", "transformers/__init__.py", 1, "<module>")
    torch = Frame("torch", "2.13", "torch/__init__.py", 9, "<module>")

    assert culprit_of([importer, torch]).distribution == "torch"


DUMP = """some output
Fatal Python error: Segmentation fault

Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 10 in wait

Current thread 0x00007e (most recent call first):
  File "{file}", line 12 in convert
  File "{file}", line 34 in main

Extension modules: numpy (total: 1)
"""


def test_the_line_of_a_native_crash_is_read_from_the_dump():
    """The thread that crashed, innermost first."""
    frames = frames_of_dump(DUMP.format(file=click.types.__file__))

    assert [(f.distribution, f.line, f.function) for f in frames] == [("click", 34, "main"), ("click", 12, "convert")]
    assert culprit_of(frames).line == 12


def test_the_line_of_a_hang_is_that_of_the_main_thread():
    """Which comes last, and no thread is the current one."""
    dump = DUMP.replace("Current thread", "Thread").format(file=click.types.__file__)

    assert culprit_of(frames_of_dump(dump)).line == 12
    assert frames_of_dump("nothing of the kind") == ()
