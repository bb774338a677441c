"""Data files: read line by line, and refused in one sentence that names file and line."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import pytest

from ftdoctor.errors import DataError
from ftdoctor.training.data import located, map_rows, read_rows

GOOD = {"messages": [{"role": "user", "content": "Straße"}, {"role": "assistant", "content": "東京"}]}


@pytest.fixture
def write(tmp_path):
    """Write lines (texts, bytes, or values as JSON) to data.jsonl and return its path."""

    def make(*lines):
        path = tmp_path / "data.jsonl"
        made = [line if isinstance(line, (str, bytes)) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in made))
        return path

    return make


def sentence(path, **options):
    """What reading the file raises."""
    with pytest.raises(DataError) as caught:
        list(read_rows(path, **options))
    return str(caught.value)


def test_each_row_knows_its_file_and_line(write):
    """Lines are counted as an editor counts them, blank ones too."""
    path = write(GOOD, "", "  \t", GOOD, b"\r")
    rows = list(read_rows(path))

    assert [row.data for row in rows] == [GOOD, GOOD]
    assert [row.where for row in rows] == [f"{path} line 1", f"{path} line 4"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_line_may_end_or_not(write, end):
    """And lines may end as on Windows."""
    assert len(list(read_rows(write(GOOD, json.dumps(GOOD).encode() + end)))) == 2


def test_a_byte_order_mark_is_no_text(write):
    """Windows editors write one."""
    assert next(read_rows(write(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))).data == GOOD


def test_other_line_separators_do_not_end_a_line(write):
    """Only line feeds do; U+2028 and the form feed may stand in a text."""
    row = {"prompt": "a\u2028b\x0cc\u0085", "completion": "d"}

    assert next(read_rows(write(row))).data == row


BROKEN = {
    '{"messages": [}': "is not JSON: expecting value at character 15",
    '{"messages": []': "is not JSON",
    "[1, 2]": "is an array, not a JSON object",
    '"text"': "is a string, not a JSON object",
    "null": "is null, not a JSON object",
    "3": "is a number, not a JSON object",
    '{"prompt": "a", "prompt": "b", "completion": "c"}': "names 'prompt' twice",
    '{"messages": [{"role": "user", "content": 1, "content": 2}]}': "names 'content' twice",
    '{"prompt": NaN, "completion": "c"}': "holds NaN, which is not JSON",
    '{"prompt": -Infinity, "completion": "c"}': "holds -Infinity",
    '{"text": "a", "id": 3}': "has no column to train on: it has text, id",
    '{"messages": null}': "it has messages (null)",
    "{}": "it has none",
    '{"prompt": "a"}': "it has prompt; name them `messages`, `prompt` and `completion`",
    '{"prompt": "a", "chosen": "b", "rejected": "c"}': "it has prompt, chosen, rejected",
    '{"n": ' + "[" * 100_000 + "]" * 100_000 + "}": "is nested too deeply",
    '{"n": ' + "9" * 5000 + "}": "cannot be read",
    b'{"prompt": "\xff", "completion": "c"}': "is not UTF-8 (byte 0xff at 13)",
}


@pytest.mark.parametrize("line", BROKEN, ids=[repr(line)[:40] for line in BROKEN])
def test_a_broken_line_is_named(write, line):
    """By file and number, in one sentence that says what is wrong."""
    said = sentence(write(*[GOOD] * 6, line, GOOD))

    assert "data.jsonl line 7 " in said
    assert BROKEN[line] in said
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_another_encoding_is_named(tmp_path, encoding):
    """Where the file says which it is; else by its first byte that is not UTF-8."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps({"prompt": "é", "completion": "ü"}, ensure_ascii=False).encode(encoding))

    assert ("UTF-16" if encoding == "utf-16" else "line 1 is not") in sentence(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "does not exist"), (b"", "is empty"), (b"\n \n\n", "has only blank lines")],
    ids=["missing", "empty", "blank"],
)
def test_a_file_without_rows_is_refused(tmp_path, content, what):
    """Missing, empty, or blank."""
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)

    assert what in sentence(path)


def test_a_missing_or_empty_file_is_refused_before_it_is_read(tmp_path):
    """Not only once somebody asks for the first row."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError):
            read_rows(path)


def test_a_line_may_be_as_long_as_the_limit_and_no_longer(write):
    """Its end is not counted."""
    row = {"prompt": "a", "completion": "b" * 100}
    length = len(json.dumps(row))

    assert list(read_rows(write(row, row, b""), max_line_bytes=length))
    windows = write(json.dumps(row).encode() + b"\r", "", row)
    assert [r.line for r in read_rows(windows, max_line_bytes=length)] == [1, 3]
    assert f"line 1 is longer than {length - 1} bytes" in sentence(write(row, row), max_line_bytes=length - 1)


def test_a_line_of_40_mb_is_refused_without_being_read_whole(tmp_path):
    """Memory stays near the limit, which is named."""
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(GOOD).encode() + b'\n{"prompt": "')
        for _ in range(40):
            file.write(b"x" * 2**20)
        file.write(b'", "completion": "y"}\n')
    tracemalloc.start()
    said = sentence(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "line 2 is longer than 16 MiB" in said
    # The line up to the limit and one copy of it.
    assert peak < 2.5 * 16 * 2**20


def test_a_file_is_never_read_whole(write):
    """The rows before a broken line come first."""
    rows = read_rows(write(*[GOOD] * 3, "broken"))

    assert len(list(itertools.islice(rows, 3))) == 3
    with pytest.raises(DataError, match="line 4"):
        next(rows)


def test_rows_of_any_columns_come_where_they_are_asked_for(write):
    """For those who know better what to do with them."""
    assert [row.data for row in read_rows(write({"text": "a"}), any_columns=True)] == [{"text": "a"}]


def test_rows_without_a_file_are_counted_from_one(write):
    """Rows of files keep their own place."""
    path = write(GOOD)
    places = [where for _, where in located([GOOD, *read_rows(path), GOOD])]

    assert places == ["row 1", f"{path} line 1", "row 3"]
    with pytest.raises(DataError, match="row 2 is a str"):
        list(located([GOOD, "text"]))


def keep_even(row, where):
    """A conversion that drops."""
    return {"n": row["n"], "where": where} if row["n"] % 2 == 0 else None


@pytest.mark.stack
@pytest.mark.parametrize("kind", ["list", "generator", "dataset", "stream"])
def test_rows_come_back_in_the_kind_of_container_in_which_they_came(kind):
    """A stream converts as it is consumed, and again on its next pass."""
    from datasets import Dataset, IterableDataset

    rows = [{"n": n, "other": "x"} for n in range(5)]
    given = {
        "list": lambda: rows,
        "generator": lambda: (row for row in rows),
        "dataset": lambda: Dataset.from_list(rows),
        "stream": lambda: IterableDataset.from_generator(lambda: iter(rows)),
    }[kind]()
    begun = []
    made = map_rows(given, keep_even, ("n", "where"), lambda: begun.append(1))
    expected = [{"n": n, "where": f"row {n + 1}"} for n in (0, 2, 4)]

    if kind in ("generator", "stream"):
        assert not begun
    assert type(made) is type(given)
    assert list(made) == expected
    if kind == "stream":
        assert list(made) == expected
        assert len(begun) == 2


@pytest.mark.stack
@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_nothing_left_is_an_error(kind):
    """It would be a misleading one later on."""
    from datasets import Dataset

    rows = [{"n": 1}, {"n": 3}]
    with pytest.raises(DataError, match="None of 2 rows is left"):
        map_rows(rows if kind == "list" else Dataset.from_list(rows), keep_even, ("n", "where"))


@pytest.mark.stack
def test_a_dict_of_splits_is_refused():
    """As `load_dataset` returns it where no split is named."""
    from datasets import Dataset, DatasetDict

    for splits in (DatasetDict(train=Dataset.from_list([GOOD])), {"train": [GOOD]}):
        with pytest.raises(DataError, match="a dict of train; give one split"):
            map_rows(splits, keep_even, ("n",))
