"""Any SQLAlchemy database: PostgreSQL for real, with a server of this test's own."""

from __future__ import annotations

import logging
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.database import database_writer
from ftdoctor.prediction.reading import read_predictions
from ftdoctor.prediction.writers import deliver, open_writer

pytest.importorskip("sqlalchemy")
PASSWORD = "p@ss:w/rd%3F"
QUOTED = "p%40ss%3Aw%2Frd%253F"


class Server:
    """A PostgreSQL that can be stopped, paused and started again, with one user and a password."""

    def __init__(self, binaries):
        # Not in pytest's folder, which is closed to the user that the server runs as: it refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="ftdoctor-pg-"))
        self.binaries, self.process = binaries, None
        self.who = {}
        if os.geteuid() == 0:
            user = next(u for u in (*(u for u in pwd.getpwall() if u.pw_name == "postgres"), pwd.getpwnam("nobody")))
            self.who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--no-sync", "--username=ann", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
        subprocess.run(
            [binaries / "initdb", "-D", self.folder / "data", "--locale=C", *options],
            check=True, capture_output=True, cwd=self.folder, **self.who,
        )  # fmt: skip
        self.start()

    def url(self, password=QUOTED, database="postgres"):
        return f"postgresql+psycopg://ann:{password}@127.0.0.1:{self.port}/{database}"

    def start(self):
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder), "-c", "fsync=off"]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.folder / "data", *options],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self.who,
        )  # fmt: skip
        ready = [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        end = time.monotonic() + 20
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < end
            time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)

    def run(self, sql, database="postgres"):
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=ann dbname={database}"
        with psycopg.connect(where, password=PASSWORD, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def server():
    found = [
        Path(p) for p in (shutil.which("postgres"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))) if p
    ]
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    pytest.importorskip("psycopg")
    server = Server(found[-1].parent)
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def postgres(server, request):
    """The URL of an empty database of this test's own."""
    name = f"t{abs(hash(request.node.nodeid))}"
    server.run(f"CREATE DATABASE {name}")
    return server.url(database=name)


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request, tmp_path):
    """Two dialects, one code."""
    if request.param == "sqlite":
        return f"sqlite+pysqlite:///{tmp_path}/generic.db"
    return request.getfixturevalue("postgres")


def test_rows_arrive_once(url, make_row):
    """Into a table that is made; written again they are left as they are."""
    rows = [make_row(n) for n in range(250)]
    writer = open_writer(url)

    first, second = writer.write(rows), writer.write([*rows[:120], make_row(250)])

    assert (first.written, first.waiting, first.reason) == (250, 0, "")
    assert second.waiting == 0
    assert read_predictions(url)[:250] == rows
    assert len(read_predictions(url)) == 251


def test_texts_arrive_whole(url, make_row, nasty):
    """Also what PostgreSQL's text cannot hold."""
    row = make_row(prompt=nasty, ground_truth=nasty, prediction=nasty, error=nasty)

    assert open_writer(url).write([row]).written == 1

    assert read_predictions(url) == [row]


JOB = """
import sys
from ftdoctor.prediction.rows import PredictionRow, new_id, now
from ftdoctor.prediction.writers import open_writer
writer = open_writer(sys.argv[1], spool=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
rows = [PredictionRow(f"{n:032x}", "j", "u", 0.5, n, n, "p", "t", "x", None, 0.1, 2, "f", now()) for n in range(200)]
for start in range(0, 200, 50):
    delivery = writer.write(rows[start : start + 50])
    assert not delivery.waiting and not delivery.refused, delivery
"""


def test_processes_may_make_the_table_and_write_the_same_rows_at_once(postgres, tmp_path):
    """With a spool each, so that the database alone keeps them apart."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, postgres, tmp_path / str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in range(3)
    ]  # fmt: skip
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()

    assert [job.communicate(timeout=60)[1] for job in jobs] == [""] * 3
    assert len(read_predictions(postgres)) == 200


def test_rows_wait_while_the_server_is_down(server, postgres, make_row, caplog):
    """They are delivered in order, once, when it is back; one warning is given."""
    writer = database_writer(postgres, time_limit=1)
    assert writer.write([make_row(0)]).written == 1
    server.stop()
    try:
        away = [writer.write([make_row(n)]) for n in (1, 2)]
    finally:
        server.start()

    back = database_writer(postgres, time_limit=5).write([make_row(3)])

    assert [d.waiting for d in away] == [1, 2]
    assert "does not take rows" in away[0].reason
    assert (back.written, back.waiting) == (3, 0)
    assert [row.step for row in read_predictions(postgres)] == [0, 1, 2, 3]
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_server_that_hangs_holds_up_training_no_longer_than_the_limit(server, postgres, make_row):
    """Stopped in its tracks: it accepts the connection and says nothing."""
    writer = database_writer(postgres, time_limit=1)
    server.process.send_signal(signal.SIGSTOP)
    try:
        begin = time.monotonic()
        delivery = writer.write([make_row(0)])
        assert time.monotonic() - begin < 1.5
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert delivery.waiting == 1
    assert deliver(postgres).waiting == 0
    assert len(read_predictions(postgres)) == 1


def test_a_row_that_the_database_refuses_is_kept_aside(server, postgres, make_row):
    """Here by a rule of its own; the others arrive."""
    writer = open_writer(postgres)
    writer.write([make_row(0)])
    server.run("ALTER TABLE predictions ADD CHECK (step <> 5)", postgres.rpartition("/")[2])

    delivery = writer.write([make_row(n) for n in range(1, 9)])

    assert (delivery.written, delivery.waiting, delivery.refused) == (7, 0, 1)
    assert [row.step for row, _ in writer.spool.refused()] == [5]
    assert [row.step for row in read_predictions(postgres)] == [0, 1, 2, 3, 4, 6, 7, 8]


def test_another_programs_table_is_left_alone(server, postgres, make_row):
    """Rows wait, and the missing column is named."""
    server.run("CREATE TABLE predictions (id text)", postgres.rpartition("/")[2])

    delivery = open_writer(postgres).write([make_row(0)])

    assert delivery.waiting == 1
    assert "has no column job" in delivery.reason
    with pytest.raises(PredictionError, match="has no column job"):
        read_predictions(postgres)


def test_what_cannot_be_read_is_one_sentence(server, postgres, make_row):
    """No table, no rows, no database, no server."""
    with pytest.raises(PredictionError, match="has no table"):
        read_predictions(postgres)
    with pytest.raises(PredictionError, match="does not exist"):
        read_predictions(server.url(database="nowhere"))
    with pytest.raises(PredictionError, match="refused"):
        read_predictions("postgresql+psycopg://ann@127.0.0.1:9/x")
    open_writer(postgres).write([make_row()])
    server.run("DELETE FROM predictions", postgres.rpartition("/")[2])
    with pytest.raises(PredictionError, match="no predictions yet"):
        read_predictions(postgres)


def test_a_password_is_nowhere(server, make_row, caplog, capfd, tmp_path):
    """Neither in what a wrong one causes, nor in a repr, a log, or the spool; nor are the rows."""
    caplog.set_level(logging.DEBUG)
    wrong = server.url(password="hunter2%40x")
    writer = database_writer(wrong, str(tmp_path / "spool"), time_limit=0.5)
    delivery = writer.write([make_row(0, prompt="private matter")])
    with pytest.raises(PredictionError) as caught:
        read_predictions(wrong)

    said = f"{writer!r} {writer.receiver!r} {delivery} {caught.value!r} {caught.value.__context__!r} {caplog.text}"
    assert delivery.waiting == 1
    assert "hunter2" not in said + "".join(capfd.readouterr())
    assert "private" not in said
    for path in (tmp_path / "spool").iterdir():
        assert b"hunter2" not in path.read_bytes()
        assert "hunter2" not in path.name


def test_a_new_password_finds_the_queue_of_the_old_one(server, make_row):
    """It belongs to the database, not to who writes."""
    assert database_writer(server.url(password="old"), time_limit=0.5).write([make_row(0)]).waiting == 1

    assert open_writer(server.url()).write([make_row(1)]).written == 2


def test_no_global_generator_is_drawn_from(url, make_row):
    """The training's shuffles and masks would change."""
    np = pytest.importorskip("numpy")
    before = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    open_writer(url).write([make_row()])

    assert (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]) == before


def test_without_sqlalchemy_the_extra_is_named(tmp_path):
    """In a process where it cannot be imported."""
    program = """
import sys
sys.modules["sqlalchemy"] = None
from ftdoctor.prediction.writers import open_writer
for url in ("postgresql://h/d", "redshift://h/d"):
    try:
        open_writer(url)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "ftdoctor[database]" in done.stdout
    assert "redshift" in done.stdout
