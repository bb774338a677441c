"""A script in this folder imports each library from where it was installed, not from a stray file or an older copy.

Why: a `datasets.py`, `tokenizers/` or `random.py` beside the training script, or on PYTHONPATH, is imported in place of
the library; the error then names an attribute that "the library" lacks, or a circular import. `pip` shows
nothing wrong.

Cure: rename the stray file and remove its `__pycache__`; take the folder out of PYTHONPATH; where a library was found
that was never installed, install it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.bench import installed
from ftdoctor.probe import probe
from ftdoctor.results import Level
from ftdoctor_matrix import libraries

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch


@probe(area="environment")
def stack_origin(bench: Bench, check: Check) -> None:
    """Ask the import system where each library would come from; import nothing."""
    if not installed.distributions():
        check.skip("none of the libraries is installed; `pip install 'ftdoctor[stack]'` installs the reference stack")
    check.equal(
        "imported from elsewhere",
        {name: found for name in libraries().order if (found := _elsewhere(name))},
        {},
        why="the file found first on the path of a script in this folder, against the folder in the metadata",
    )
    check.equal(
        "files that hide the standard library",
        [str(file) for folder in _users_folders() for file in _hiding(folder)],
        [],
        why="a script in this folder, and everything it imports, gets these files instead of Python's own modules",
        level=Level.WARN,
    )


def _script_path() -> list[str]:
    """Return `sys.path` as a script in the user's folder has it."""
    return [os.environ["PWD"], *sys.path]


def _elsewhere(name: str) -> str:
    """Return the file that would be imported, where it is not the installed library's."""
    file = installed.importable(installed.module_of(name), _script_path())
    dist = installed.distribution(name)
    if file is None or (dist is not None and installed.home(dist) in file.parents):
        return ""
    return f"{file} (installed: {installed.home(dist) if dist is not None else 'no'})"


def _users_folders() -> list[Path]:
    """Return the folders that the user, not an installation, puts on the path."""
    named = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return [folder for folder in dict.fromkeys([Path(os.environ["PWD"]), *named]) if folder.is_dir()]


def _hiding(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if file.stem in sys.stdlib_module_names)


@stack_origin.fault("a file beside the script has a library's name", catches=("imported from elsewhere",))
def file_in_folder(patch: Patch) -> None:
    """`datasets.py` in the folder in which the user works."""
    (patch.folder / "datasets.py").write_text("def load():\n    return []\n")
    patch.environ("PWD", str(patch.folder))


@stack_origin.fault("a vendored copy stands first on the path", catches=("imported from elsewhere",))
def copy_on_path(patch: Patch) -> None:
    """A package of the library's name in a folder that PYTHONPATH puts in front."""
    patch.shadow("peft.__init__", "__version__ = '0.4.0'\n")


@stack_origin.fault(
    "files beside the script have names of the standard library", catches=("files that hide the standard library",)
)
def standard_library_hidden(patch: Patch) -> None:
    """`random.py` and `code.py`, as tutorials name their files."""
    for name in ("random", "code"):
        (patch.folder / f"{name}.py").write_text("")
    patch.environ("PYTHONPATH", str(patch.folder))
