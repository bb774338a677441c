"""The queue of one receiver: durable, ordered, shared."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ftdoctor.errors import PredictionError
from ftdoctor.prediction import spool as spools
from ftdoctor.prediction.spool import Spool, batches


@pytest.fixture
def spool(tmp_path):
    return Spool(str(tmp_path / "spool"), "https://host/x", "host")


def steps_of(batch):
    return [json.loads(body)["step"] for body in batch.bodies]


def test_batches_come_in_the_order_of_writing(spool, make_row):
    """At most 100 rows each, the same key every time, gone when removed."""
    spool.add([make_row(n) for n in range(150)])
    spool.add([make_row(n) for n in range(150, 160)])

    seen = []
    while batch := spool.first():
        assert spool.first() == batch
        seen.append(steps_of(batch))
        spool.remove(batch)

    assert [len(batch) for batch in seen] == [100, 50, 10]
    assert [step for batch in seen for step in batch] == list(range(160))
    assert spool.waiting() == 0


def test_a_batch_is_of_one_job_and_bounded(make_row):
    """A row that is longer than the bound goes alone."""
    rows = [make_row(n, job="ab"[n % 4 // 2], prompt="p" * (300_000 if n < 8 else 2_000_000)) for n in range(10)]

    found = [batch for batch, _ in batches(rows)]

    assert [step for batch in found for step in steps_of(batch)] == list(range(10))
    assert [len({json.loads(body)["job"] for body in batch.bodies}) for batch in found] == [1] * len(found)
    assert all(len(batch.bodies) == 1 or sum(map(len, batch.bodies)) <= spools.BYTES for batch in found)


def test_halves_take_the_place_of_the_whole(spool, make_row):
    """With keys of their own, before what came later."""
    spool.add([make_row(n) for n in range(5)])
    spool.add([make_row(5)])
    whole = spool.first()

    spool.halve(whole)

    seen, keys = [], {whole.key}
    while batch := spool.first():
        seen.append(steps_of(batch))
        keys.add(batch.key)
        spool.remove(batch)
    assert seen == [[0, 1], [2, 3, 4], [5]]
    assert len(keys) == 4


def test_a_row_that_waits_already_waits_once(spool, make_row):
    row = make_row()
    spool.add([row])
    spool.add([row])

    assert spool.waiting() == 1


def test_refused_rows_are_kept_and_can_be_tried_again(spool, make_row):
    """They are out of the queue until then."""
    row = make_row(prompt="\ud800")
    spool.add([row])
    spool.refuse(spool.first(), "too large")

    assert spool.first() is None
    assert spool.waiting() == 0
    assert spool.refused() == [(row, "too large")]
    spool.admit_refused()
    assert steps_of(spool.first()) == [0]


def test_a_held_job_holds_no_other(spool, make_row):
    """Also for another process, which reads the same file."""
    spool.add([make_row(0, job="a"), make_row(1, job="b")])
    spool.hold("a", 60)

    assert spool.first().job == "b"
    assert spool.first(without={"b"}) is None
    assert 50 < spool.held() <= 60


def test_a_clock_that_was_set_back_holds_nothing_for_years(spool, make_row, monkeypatch):
    spool.add([make_row()])
    spool.hold("job-1", 60)

    monkeypatch.setattr(spools.time, "time", lambda: 1_000_000.0)

    assert spool.first() is not None


def test_each_receiver_has_a_queue(tmp_path, make_row):
    """In one folder, that of the state where none is named; only the owner may read it."""
    one, other = Spool("", "https://host/a", "host"), Spool("", "https://host/b", "host")
    one.add([make_row()])

    assert not other.exists()
    assert one.path.parent == tmp_path / "state" / "predictions"
    assert one.path.stat().st_mode & 0o077 == 0
    assert one.path.parent.stat().st_mode & 0o077 == 0


def test_only_one_delivers_at_a_time(spool, make_row, tmp_path):
    """The other one learns it after its time; when the first is killed it is free."""
    spool.add([make_row()])
    program = f"""
from ftdoctor.prediction.spool import Spool
import time
with Spool({str(tmp_path / "spool")!r}, "https://host/x", "host").turn(1) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        with spool.turn(0.2) as mine:
            assert not mine
        process.kill()
    with spool.turn(1) as mine:
        assert mine


def test_a_full_disk_is_an_error_and_keeps_what_was_there(spool, make_row, tmp_path):
    """Here a limit on the size of files: all of the call's rows, or none."""
    spool.add([make_row()])
    program = f"""
import resource, signal
from ftdoctor.errors import PredictionError
from ftdoctor.prediction.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from ftdoctor.prediction.rows import PredictionRow, new_id, now
rows = [PredictionRow(new_id(), "j", "u", 0.5, 1, n, "p" * 100_000, "t", "x", None, 0.1, 2, "float32", now())
        for n in range(9)]
try:
    Spool({str(tmp_path / "spool")!r}, "https://host/x", "host").add(rows)
except PredictionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "cannot be put into the spool" in done.stdout
    assert spool.waiting() == 1


def test_a_spool_that_is_none_is_named(spool, make_row):
    spool.path.parent.mkdir()
    spool.path.write_bytes(b"something else " * 100)

    with pytest.raises(PredictionError, match="cannot be put into the spool"):
        spool.add([make_row()])


def test_a_folder_that_cannot_be_made_is_named(tmp_path, make_row):
    (tmp_path / "file").write_text("")

    with pytest.raises(PredictionError, match="cannot be put into the spool"):
        Spool(str(tmp_path / "file"), "https://host/x", "host").add([make_row()])
