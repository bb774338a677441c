"""The installed versions fit each other, this Python, and what the project expects.

Why: pip leaves a broken set behind whenever something is installed without its dependencies or a pin is forced;
notebooks and images do both. What breaks then breaks far from the cause, in the middle of a run.

Cure: `pip install` the requirement named in the finding; where two copies are named, `pip uninstall` the library until
it is gone, remove what is left of it, and install it once.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from ftdoctor.bench import installed
from ftdoctor.probe import probe
from ftdoctor.results import Level

if TYPE_CHECKING:
    from pathlib import Path

    from ftdoctor.bench import Bench
    from ftdoctor.checks import Check
    from ftdoctor.patch import Patch

HERE = "[tool.ftdoctor] expect"


@probe(area="environment")
def stack_versions(bench: Bench, check: Check) -> None:
    """Read the metadata of everything the libraries need; import none of it."""
    found = installed.distributions()
    if not found:
        check.skip("none of the libraries is installed; `pip install 'ftdoctor[stack]'` installs the reference stack")
    python = platform.python_version()
    needed = [*installed.requirements(), *_expected(bench.settings.expect)]
    check.note("versions", {name: dist.version for name, dist in found.items()})
    check.equal(
        "Python version",
        {name: refused for name in found if (refused := installed.refuses_python(found[name], python))},
        {},
        why=f"each library's Requires-Python, against Python {python}",
    )
    check.equal(
        "requirements",
        {f"{who} needs {need}": has for who, need in needed if (has := installed.unmet(need))},
        {},
        why=f"Requires-Dist of the libraries and of all that they need, and {HERE}, against what is installed",
    )
    copies = installed.copies({installed.normal(name) for name in (*found, *(n.name for _, n in needed))})
    check.equal(
        "two versions in one folder",
        {name: [v for _, v in all_] for name, all_ in copies.items() if len({f for f, _ in all_}) < len(all_)},
        {},
        why="an update that did not remove the old metadata leaves files of both versions",
    )
    check.equal(
        "hidden copies",
        {name: _places(all_) for name, all_ in copies.items() if len({v for _, v in all_}) > 1},
        {},
        why="another version later on the path is what `pip` or another interpreter may see and change",
        level=Level.WARN,
    )


def _expected(expect: Any) -> list[tuple[str, Requirement]]:
    """Return the versions that the user expects, as requirements; a bare version means exactly that one."""
    exact = {name: f"=={text}" if text[:1].isdigit() else text for name, text in expect.items()}
    return [(HERE, Requirement(f"{name}{specifier}")) for name, specifier in exact.items()]


def _places(copies: list[tuple[Path, str]]) -> list[str]:
    return [f"{version} in {folder}" for folder, version in copies]


def _write(folder: Path, name: str, version: str, *lines: str) -> None:
    """Write the metadata of a distribution into a folder."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]))


@stack_versions.fault(
    "an old copy hides the installed library, and needs another Python",
    catches=("Python version", "requirements", "hidden copies"),
)
def old_copy_first(patch: Patch) -> None:
    """What PYTHONPATH or `pip install --user` puts in front."""
    import sys

    _write(patch.folder, "tokenizers", "0.0.1", "Requires-Python: <3.0", "Requires-Dist: not-on-any-index>=7")
    sys.path.insert(0, str(patch.folder))


@stack_versions.fault("an update left the old metadata behind", catches=("two versions in one folder",))
def metadata_left(patch: Patch) -> None:
    """Two metadata folders of one library in the same folder."""
    import sys

    for version in ("0.0.1", "0.0.2"):
        _write(patch.folder, "safetensors", version)
    sys.path.append(str(patch.folder))
