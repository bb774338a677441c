"""Rows of training data: read from JSON Lines files one line at a time, each with the place it came from."""

from __future__ import annotations

import codecs
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import DataError
from ftdoctor.wording import shorten

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

MAX_LINE_BYTES = 16 * 2**20
"""Bytes of the longest line that `read_rows` takes by itself: some four million tokens of English."""

FORMS = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "conversations": ("conversations",),
}
"""Form of a row to the columns that make it one, in the order in which they are looked for."""

_KEPT = "ftdoctor_kept"
_OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One line of a data file, and where it stands."""

    data: Mapping[str, Any]
    source: str
    """The file, as its path was given."""
    line: int
    """Number of the line in its file; the first is 1."""

    @property
    def where(self) -> str:
        """The place in words: `data.jsonl line 7`."""
        return f"{self.source} line {self.line}"


def read_rows(
    path: str | os.PathLike[str], *, max_line_bytes: int = MAX_LINE_BYTES, any_columns: bool = False
) -> Iterator[Row]:
    """Return an iterator over the rows of a JSON Lines file that reads it line by line.

    Blank lines are skipped, a byte order mark of UTF-8 is too. A line is never held in memory beyond
    `max_line_bytes` bytes, however long it is.

    Args:
        path: the file, in UTF-8, with one JSON object a line.
        max_line_bytes: the longest line that is accepted, in bytes.
        any_columns: also take rows whose columns are of no form that `Messages` knows.

    Raises:
        DataError: at once if the file is missing, not a file or empty, and while iterating at the first line that
            is too long, not UTF-8, not JSON (NaN and Infinity are not), not an object, names a key twice, or has
            no known column; it names the file and the line.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise DataError(f"The data file {path} does not exist; give the path of a JSON Lines file.")
        if file.is_dir():
            raise DataError(f"{path} is a folder; give the path of a JSON Lines file in it.")
        if file.is_file() and not file.stat().st_size:
            raise DataError(f"The data file {path} is empty; write one JSON object a line into it.")
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(file, str(path), max_line_bytes, any_columns)


def form_of(data: Mapping[str, Any], where: str) -> str:
    """Return the form of a row: `messages`, `completion` or `conversations`.

    Args:
        data: the row.
        where: its place in words, for the error.

    Raises:
        DataError: it has none of the known columns.
    """
    for form, columns in FORMS.items():
        if all(data.get(column) is not None for column in columns):
            return form
    found = shorten(", ".join(f"{name}{'' if v is not None else ' (null)'}" for name, v in data.items()), 200) or "none"
    raise DataError(
        f"{where} has no column to train on: it has {found}; name them `messages`, `prompt` and `completion`, "
        "or `conversations`."
    )


def located(rows: Iterable[Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each row's data and its place in words: file and line of a `Row`, else `row 7`, counted from 1."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Row):
            yield row.data, row.where
        elif isinstance(row, Mapping):
            yield row, f"row {number}"
        else:
            raise DataError(f"row {number} is a {type(row).__name__}; give rows as dicts, or as `read_rows` does.")


def map_rows(
    rows: Any,
    convert: Callable[[Mapping[str, Any], str], Mapping[str, Any] | None],
    columns: Sequence[str],
    begin: Callable[[], None] = lambda: None,
) -> Any:
    """Convert rows, and return them in the kind of container in which they came.

    Args:
        rows: a list or tuple, a `datasets.Dataset` or `datasets.IterableDataset`, or any other iterable.
        convert: takes a row and its place in words, and returns the new row, or None to drop it.
        columns: the columns of a new row.
        begin: is called whenever a pass over the rows begins.

    Returns:
        A list, a Dataset, an IterableDataset, or a generator; the last two convert as they are consumed.

    Raises:
        DataError: none of the rows of a list or a Dataset is left.
    """
    if is_dataset(rows) or is_stream(rows):
        return _map_dataset(rows, convert, columns, begin)
    if isinstance(rows, Sequence):
        kept = list(_converted(rows, convert, begin))
        _refuse_none_left(len(rows), len(kept))
        return kept
    return _converted(rows, convert, begin)


def is_dataset(rows: Any) -> bool:
    """Say whether rows are a `datasets.Dataset`, without importing the library."""
    return _is_of_datasets(rows) and hasattr(rows, "num_rows")


def is_stream(rows: Any) -> bool:
    """Say whether rows are a `datasets.IterableDataset`, without importing the library."""
    return _is_of_datasets(rows) and not hasattr(rows, "num_rows")


def uncached(rows: Any) -> dict[str, Any]:
    """Return the arguments of `map` by which a Dataset takes nothing from a cache: counts are made by mapping."""
    return {"load_from_cache_file": False, "new_fingerprint": uuid.uuid4().hex} if is_dataset(rows) else {}


def _is_of_datasets(rows: Any) -> bool:
    if isinstance(rows, Mapping):
        raise DataError(
            f"The rows are a dict of {shorten(', '.join(map(str, rows)), 80)}; give one split, such as 'train'."
        )
    return type(rows).__module__.partition(".")[0] == "datasets"


def _converted(rows: Iterable[Any], convert: Callable[..., Any], begin: Callable[[], None]) -> Iterator[Any]:
    begin()
    for data, where in located(rows):
        made = convert(data, where)
        if made is not None:
            yield made


def _map_dataset(rows: Any, convert: Callable[..., Any], columns: Sequence[str], begin: Callable[[], None]) -> Any:
    def one(data: Mapping[str, Any], index: int) -> dict[str, Any]:
        if index == 0:
            begin()
        made = convert(data, f"row {index + 1}")
        return {**dict.fromkeys(columns), **(made or {}), _KEPT: made is not None}

    def batch(data: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        each = [one({name: data[name][at] for name in data}, index) for at, index in enumerate(indices)]
        return {c: [row[c] for row in each if row[_KEPT]] for c in columns}

    if is_stream(rows):
        return rows.map(one, with_indices=True).filter(_is_kept).select_columns(list(columns))
    made = rows.with_format(None).map(
        batch,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        **uncached(rows),
    )
    _refuse_none_left(len(rows), len(made))
    return made


def _is_kept(row: Mapping[str, Any]) -> bool:
    return bool(row[_KEPT])


def _refuse_none_left(before: int, after: int) -> None:
    if before and not after:
        raise DataError(f"None of {before} rows is left to train on; see the counts for the reasons.")


def _read(file: Path, source: str, limit: int, any_columns: bool) -> Iterator[Row]:
    rows = 0
    try:
        with file.open("rb") as lines:
            # Two bytes more than is allowed hold the end of the longest line, and show a longer one for what it is.
            for number, line in enumerate(iter(lambda: lines.readline(limit + 2), b""), start=1):
                where = f"{source} line {number}"
                if len(line.rstrip(b"\r\n")) > limit:
                    raise DataError(
                        f"{where} is longer than {_size(limit)}; split it, or allow it with `max_line_bytes`."
                    )
                text = _decode(line, number, where)
                if not text or text.isspace():
                    continue
                data = _parse(text, where)
                if not any_columns:
                    form_of(data, where)
                rows += 1
                yield Row(data, source, number)
    except OSError as error:
        raise _unreadable(source, error) from error
    if not rows:
        raise DataError(f"The data file {source} has only blank lines; write one JSON object a line into it.")


def _decode(line: bytes, number: int, where: str) -> str:
    if number == 1:
        for mark, name in _OTHER_ENCODINGS.items():
            if line.startswith(mark):
                raise DataError(f"{where} begins like {name} text; save the file as UTF-8.")
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise DataError(f"{where} is not UTF-8 (byte 0x{byte:02x} at {error.start + 1}); save it as UTF-8.") from error


def _parse(text: str, where: str) -> Mapping[str, Any]:
    def refuse(name: str) -> None:
        raise DataError(f"{where} holds {name}, which is not JSON; write null, a number or a string in its place.")

    try:
        data = json.loads(text, parse_constant=refuse, object_pairs_hook=_once(where))
    except json.JSONDecodeError as error:
        reason = error.msg.lower().removesuffix(" at")
        raise DataError(
            f"{where} is not JSON: {reason} at character {error.pos + 1}; write one whole object a line."
        ) from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply to be read; flatten it, or write it as a string.") from error
    except DataError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{where} cannot be read: {shorten(str(error), 120)}; write the value as a string.") from error
    if not isinstance(data, Mapping):
        raise DataError(f"{where} is {_kind(data)}, not a JSON object; write one object a line, without brackets.")
    return data


def _once(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Return the maker of objects for the JSON parser, which itself would silently keep the last of two values."""

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{where} names {twice!r} twice in one object; keep one of the two.")
        return made

    return make


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _size(limit: int) -> str:
    return f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit} bytes"


def _unreadable(path: object, error: OSError) -> DataError:
    return DataError(f"The data file {path} cannot be read: {error.strerror or error}.")
