"""The forms in which a run is written: their options, and how they reach their files whatever happens."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from ftdoctor.cli import options
from ftdoctor.cli.streams import Lasting
from ftdoctor.wording import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TextIO

    from ftdoctor.config import Config
    from ftdoctor.redaction import Redactor
    from ftdoctor.results import Run

FORMATS = {
    "json": "the JSON document from which every other form can be made",
    "html": "one HTML file that needs nothing else",
    "markdown": "Markdown that fits into a bug ticket",
    "junit": "JUnit XML",
}
"""Names of forms, which are those of their options, settings and modules, and what they are."""

SUFFIXES = {".json": "json", ".html": "html", ".htm": "html", ".md": "markdown", ".xml": "junit"}
"""The form of which a file is, by the end of its name."""

KEPT = "run.json"
"""Name of the file in which a run is kept beside its journal."""

Command = TypeVar("Command", bound="Callable[..., Any]")
Record = TypeVar("Record")


def format_options(command: Command) -> Command:
    """Add the options of all forms to a command, and the one that leaves out redaction."""
    for name, told in reversed(FORMATS.items()):
        text = f"Write the report as {told}, to a file or to standard output."
        option = click.option(f"--{name}", name, is_flag=False, flag_value="-", metavar="[FILE]", help=text)
        command = option(command)
    return options.no_redact_flag(command)


def targets(
    chosen: Mapping[str, Any], configuration: Config | None = None, sources: Iterable[str] = ()
) -> dict[str, str]:
    """Return form to path (`-` for standard output) as asked; the command line wins over the configuration.

    Raises:
        UsageError: two forms go to one place, or one cannot be written where it should be, or would take the place
            of a source, or of a report of another form.
    """
    from ftdoctor.errors import UsageError

    given = {name: chosen.get(name) for name in FORMATS}
    for name, path in given.items():
        if path == "":
            raise UsageError(f"--{name} is given an empty name; name a file, or write --{name} - for standard output.")
    wanted = {name: str(path or getattr(configuration, name, "")) for name, path in given.items()}
    asked = {name: path for name, path in wanted.items() if path}
    places: dict[str, str] = {}
    read = {_resolved(source) for source in sources}
    for name, path in asked.items():
        place = path if path == "-" else str(_resolved(path))
        if place in places:
            shown = "standard output" if path == "-" else path
            raise UsageError(f"--{places[place]} and --{name} both go to {shown}; give one of them another file.")
        places[place] = name
        if path != "-":
            if Path(place) in read:
                raise UsageError(f"{path} is read, and would be written over; name another file.")
            _refuse_another_form(name, path)
            _refuse_unwritable(path)
    return asked


def _refuse_another_form(name: str, path: str) -> None:
    """Refuse to write over a report of another form: in `report --markdown run.json` it was meant to be read."""
    from ftdoctor.errors import UsageError

    if SUFFIXES.get(Path(path).suffix.lower(), name) != name and Path(path).is_file():
        raise UsageError(
            f"--{name} {path} would write over a file of another form; name a report that is to be read before "
            f"the options, and the file that is to be written after --{name}."
        )


def _resolved(path: str) -> Path:
    """Return the file that a path leads to, through every link.

    Raises:
        UsageError: it leads nowhere.
    """
    from ftdoctor.errors import UsageError

    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise UsageError(f"The path {path!r} leads nowhere: {error}; name another one.") from error


def _refuse_unwritable(path: str) -> None:
    """Say before the run, not after it, that a report cannot be written where it should be."""
    from ftdoctor.errors import UsageError

    target = _resolved(path)
    try:
        if target.is_dir():
            raise UsageError(f"The report {path} cannot be written: that is a folder; name a file in it.")
        if target.exists() and not target.is_file():  # a device, or a pipe that would wait for its reader
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        existed = target.exists()
        with target.open("a"):
            pass
        if not existed:
            target.unlink()
    except OSError as error:
        raise UsageError(f"The report {path} cannot be written: {error.strerror}; name another file.") from error


@dataclass(frozen=True)
class Bare:
    """Leaves names, paths and addresses in; secrets go all the same, as they do before a cell's texts are kept."""

    secrets: Redactor

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self.secrets.text(text)

    def data(self, value: Any) -> Any:
        """Return mappings, lists and texts without secrets."""
        return self.secrets.data(value)

    def record(self, record: Record) -> Record:
        """Return a record without secrets."""
        return self.secrets.record(record)

    def run(self, run: Run) -> Run:
        """Return a run without secrets, which does not call itself redacted unless it was."""
        return replace(self.record(run), redaction=run.redaction)


def redactor(no_redact: bool, extra: Sequence[str] = ()) -> Redactor | Bare:
    """Return what takes secrets and names out of everything that is shown or written.

    Args:
        no_redact: leave names, paths and addresses in, and say so.
        extra: regular expressions of what is taken out besides.
    """
    from ftdoctor import redaction

    if no_redact:
        click.echo(
            "ftdoctor: not redacted: names, paths and addresses stay in; don't attach this to a ticket", err=True
        )
        return Bare(redaction.secrets_here())
    return redaction.here(extra=extra)


def write(run: Run, asked: Mapping[str, str], say: Callable[[str], None], kept: Path | None = None) -> bool:
    """Write a run in every form that was asked for, and return whether all of them were.

    What cannot be written where it should be is told on standard error, with the place where the run was saved
    instead, or with the run itself where it could be saved nowhere.

    Args:
        run: what is written, redacted.
        asked: form to path.
        say: is told each file that was written.
        kept: a file that holds the run already.
    """
    lost = [
        _sentence(name, path, error)
        for name, path, error in put_each(
            asked, lambda name: _form(name).render(run), lambda path: say(f"report: {path}")
        )
    ]
    if lost:
        _rescue(run, lost, kept)
    return not lost


def _form(name: str) -> Any:
    return importlib.import_module(f"ftdoctor_reports.{name}")


def _sentence(name: str, path: str, error: Exception) -> str:
    """Say that a form could not be written, or not even be made."""
    if isinstance(error, OSError):
        return f"the report {'on standard output' if path == '-' else path} could not be written ({error.strerror})"
    return f"the {name} report could not be made ({type(error).__name__}: {error}); this is a bug of ftdoctor"


def put_each(
    asked: Mapping[str, str], render: Callable[[str], str], say: Callable[[str], None] = lambda _: None
) -> list[tuple[str, str, Exception]]:
    """Write each form to its place, standard output last; return those that failed, with their places and why.

    Args:
        asked: form to path.
        render: makes the text of a form.
        say: is told each file that was written.
    """
    failed: list[tuple[str, str, Exception]] = []
    for name, path in sorted(asked.items(), key=lambda item: item[1] == "-"):
        try:
            put(path, render(name))
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one form must not take the others away
            failed.append((name, path, error))
        else:
            if path != "-":
                say(path)
    return failed


def put(path: str, text: str) -> None:
    """Write a text to a file, whole or not at all; to standard output for `-`.

    Raises:
        OSError: it could not be written.
    """
    if path == "-":
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        click.echo(text, nl=not text.endswith("\n"))
        return
    target = Path(path).resolve()
    data = text.encode("utf-8", "backslashreplace")
    if target.exists() and not target.is_file():  # a device or a pipe
        target.write_bytes(data)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def save(run: Run, folder: Path) -> Path | None:
    """Keep the document of a run in a folder; return its path, or None where that is not possible."""
    from ftdoctor_reports import json

    path = folder / KEPT
    try:
        put(str(path), json.render(run))
    except (OSError, ValueError):
        return None
    return path


def _rescue(run: Run, lost: list[str], kept: Path | None) -> None:
    """Tell on standard error what was lost and where the run is all the same."""
    saved, log = kept, cast("TextIO", Lasting(sys.stderr))
    with contextlib.suppress(OSError):
        saved = kept or save(run, Path(tempfile.mkdtemp(prefix="ftdoctor-run-")))
    for sentence in lost:
        click.echo(f"ftdoctor: {visible(sentence)}.", file=log)
    if saved:
        click.echo(f"ftdoctor: the run is kept in {saved}; make its reports with `ftdoctor report {saved}`.", file=log)
        return
    from ftdoctor_reports import markdown

    click.echo("ftdoctor: the run could be saved nowhere; this is what it found.\n", file=log)
    click.echo(markdown.render(run), file=log)
