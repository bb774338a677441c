"""Every installed library of the stack imports, together with the others, and is the version it says it is.

Why: a package that is installed and cannot be imported is reported as "not installed" by most tools and by the
libraries' own `is_..._available`, because an upgrade of one library has removed a name that another imports. And a
half-overwritten installation imports the files of one version under the metadata of another.

Cure: upgrade the library that does not import (`pip install -U NAME`), or take the other one back to the version it
was made for; where module and metadata disagree, `pip install --force-reinstall --no-deps NAME`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from ftdoctor.bench import installed
from ftdoctor.probe import probe
from ftdoctor.wording import shorten
from ftdoctor_matrix import libraries

if TYPE_CHECKING:
    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

USED = {"transformers": ("AutoModelForCausalLM", "AutoTokenizer", "Trainer"), "trl": ("SFTTrainer",)}
"""What a training script takes from libraries that import nothing until they are asked for a name."""


@probe(
    area="environment",
    fresh=True,
    references=("huggingface/peft#2754", "huggingface/transformers#44351"),
)
def stack_imports(bench: Bench, check: Check) -> None:
    """Import all installed libraries in one process, as a training script does."""
    found = installed.distributions()
    if not found:
        check.skip("none of the libraries is installed; `pip install 'ftdoctor[stack]'` installs the reference stack")
    errors: dict[str, Exception] = {}
    for name in found:
        try:
            module = importlib.import_module(installed.module_of(name))
            for used in USED.get(name, ()):
                getattr(module, used)
        except Exception as error:  # noqa: BLE001 - a broken library may raise anything while it is imported
            errors[name] = error
    check.note("not installed", [name for name in libraries().order if name not in found])
    check.equal(
        "installed but broken",
        {name: shorten(f"{type(raised).__name__}: {raised}", 120) for name, raised in errors.items()},
        {},
        why="what is installed must import",
    )
    check.equal(
        "module against metadata",
        {name: pair for name in found if (pair := _versions(name, found[name].version))},
        {},
        why="the files of one version under the metadata of another are a half-overwritten installation",
    )
    for first in errors.values():
        raise first  # its traceback names the library and the line


def _versions(name: str, expected: str) -> str:
    """Return both versions where an imported module says another one than its metadata."""
    module = sys.modules.get(installed.module_of(name))
    version = str(getattr(module, "__version__", expected))
    # Metadata may leave out the local part ("+cpu") that the module names, or the reverse.
    same = version.partition("+")[0] == expected.partition("+")[0]
    return "" if same else f"module {version}, metadata {expected}"


@stack_imports.fault(
    "a library imports a name that the other no longer has",
    catches=("installed but broken", "raises ImportError"),
)
def name_gone(patch: Patch) -> None:
    """What peft 0.17.1 does with transformers 5: `cannot import name ...`."""
    import accelerate.hooks

    # peft asks for it while it is imported; deleting is what an upgrade does to a removed name.
    del accelerate.hooks.remove_hook_from_submodules
    _forget("peft")


@stack_imports.fault(
    "a library imports, but not the trainer in it", catches=("installed but broken", "raises ModuleNotFoundError")
)
def trainer_broken(patch: Patch) -> None:
    """Libraries that import lazily look well until a script asks for the class it needs."""
    import transformers

    sys.modules["transformers.trainer"] = None  # type: ignore[assignment] # how Python marks what cannot be imported
    vars(transformers).pop("Trainer", None)


@stack_imports.fault("files of another version lie under the metadata", catches=("module against metadata",))
def half_overwritten(patch: Patch) -> None:
    """The module says another version than pip."""
    import safetensors

    patch.replace(safetensors, "__version__", "0.0.1")


def _forget(library: str) -> None:
    """Have a library imported anew, where something else has imported it already."""
    for name in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        del sys.modules[name]
