"""One function, any target, and no secret in what it says."""

from __future__ import annotations

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.delivery import Delivery
from ftdoctor.prediction.jsonl_writer import JsonlWriter
from ftdoctor.prediction.reading import read_predictions
from ftdoctor.prediction.sqlite_writer import SqliteWriter
from ftdoctor.prediction.writers import deliver, open_writer


@pytest.mark.parametrize("name", ["p.db", "p.sqlite", "p.SQLITE3", "with:colon and @.db", "sqlite:///{}/p.db"])
def test_sqlite_is_chosen(tmp_path, monkeypatch, make_row, name):
    """By the ending, or by the scheme."""
    monkeypatch.chdir(tmp_path)
    writer = open_writer(name.format(tmp_path))

    assert isinstance(writer, SqliteWriter)
    assert writer.path.parent == tmp_path
    assert writer.write([make_row()]) == Delivery(written=1)
    assert writer.close() == Delivery()
    assert len(read_predictions(str(writer.path))) == 1


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson"])
def test_json_lines_are_chosen(tmp_path, make_row, name):
    writer = open_writer(str(tmp_path / name))

    assert isinstance(writer, JsonlWriter)
    assert writer.write([make_row()]) == Delivery(written=1)


def test_nothing_is_made_when_a_writer_is_opened(tmp_path, monkeypatch):
    """No file, no folder, no question to a server that may be away."""
    pytest.importorskip("psycopg")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("METRICS_API_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("JOB_TOKEN", "t0ken")
    for url in (
        str(tmp_path / "a" / "p.db"),
        str(tmp_path / "b" / "p.jsonl"),
        "http",
        "postgresql+psycopg://127.0.0.1:9/x",
    ):
        open_writer(url).close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "An empty text"),
        ("runs/predictions", r"\.db, \.sqlite, \.sqlite3, \.jsonl, \.ndjson"),
        ("htttp", "is http meant"),
        ("postgre://h/d", "is postgresql meant"),
        ("postgres://ann:hunter2@h/d", "is postgresql meant"),
        ("htps://ann:hunter2@host/x", "is https meant"),
        ("sqlite://", "sqlite:///relative"),
        ("sqlite:///", "sqlite:///relative"),
        ("sqlite:///:memory:", "sqlite:///relative"),
        ("sqlite:p.db", "sqlite:///relative"),
        ("ftp://ann:hunter2@host/x", "known are http, https, sqlite"),
        ("ann:hunter2@host/x", "known are http, https, sqlite"),
        ("ann/hunter2@host", "nothing to write"),
        ("postgresql+nodriver://ann:hunter2@h/d", "does not know"),
        ("postgresql+asyncpg://ann:hunter2@h/d", "not installed|asynchronous"),
        ("mysql+pymysql://ann:hunter2@h/d", "pymysql, which is not installed"),
        ("postgresql+psycopg://ann:hunter2@h:port/d", "is not valid"),
        ("postgresql+psycopg://ann:hunt@er2:hunter2@h:x/d", "is not valid"),
        ("https://ann:hunter2@host/x", "JOB_TOKEN"),
        ("https://ann:hunter2/x", "not a valid URL"),
        ("https://[hunter2", "not a valid URL"),
        ("https:///x", "not a valid URL"),
        ("https://host/a b", "not a valid URL"),
        ("https://höst/", "not a valid URL"),
        ("http:host", "not a valid URL"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_its_password(url, said, capfd):
    """Nor is it in the error's causes, which loggers print."""
    if url.startswith(("postgresql", "mysql")):
        pytest.importorskip("sqlalchemy")
    with pytest.raises(PredictionError, match=said) as caught:
        open_writer(url)

    error, seen = caught.value, ""
    while error is not None:
        seen += repr(error)
        error = error.__cause__ or error.__context__
    assert "hunter2" not in seen
    assert "\n" not in str(caught.value)
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("value", [None, "", "host/x", "ftp://host"])
def test_the_bare_word_needs_an_address(monkeypatch, value):
    monkeypatch.delenv("METRICS_API_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("METRICS_API_URL", value)

    with pytest.raises(PredictionError, match="METRICS_API_URL"):
        open_writer("http")


def test_nothing_waits_for_a_file(tmp_path):
    with pytest.raises(PredictionError, match="Nothing ever waits"):
        deliver(str(tmp_path / "p.db"))
