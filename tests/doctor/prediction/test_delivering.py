"""What cannot be delivered waits, and arrives later: in order, once, whoever is killed in between."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from ftdoctor.prediction.delivering import within
from ftdoctor.prediction.http_api import http_writer
from ftdoctor.prediction.writers import deliver, open_writer


def test_rows_wait_while_a_server_is_away(token, make_row, caplog):
    """Each write says how many; one warning; all are delivered in order when it is back, by another writer too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    writer = http_writer(url, time_limit=0.4)

    waiting = [writer.write([make_row(n)]) for n in range(3)]

    assert [delivery.waiting for delivery in waiting] == [1, 2, 3]
    assert all("cannot be reached (Connection refused)" in delivery.reason for delivery in waiting)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_server_that_stays_away_is_asked_once_a_call(token, make_row, monkeypatch):
    """The first call uses its whole time, the next ones do not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        writer = http_writer(f"http://127.0.0.1:{free.getsockname()[1]}/v1", time_limit=3)
    writer.write([make_row(0)])
    sent, send = [], writer.receiver.send
    monkeypatch.setattr(writer.receiver, "send", lambda *a: sent.append(1) or send(*a))

    writer.write([make_row(1)])
    writer.write([make_row(2)])

    assert len(sent) == 2


def test_what_waited_is_delivered_first(api, make_row):
    """By the next call, in the order of writing."""
    writer = http_writer(api.url, time_limit=0.5)
    api.script = [503] * 100
    assert writer.write([make_row(0)]).waiting == 1
    assert writer.write([make_row(1)]).waiting == 2
    api.script = []

    delivery = writer.write([make_row(2)])

    assert (delivery.written, delivery.waiting, delivery.reason) == (3, 0, "")
    assert api.has_once(range(3))


def test_a_longer_retry_after_is_kept_by_later_calls_and_processes(api, make_row):
    """They put rows aside without asking, until the time has come."""
    api.script = [(503, {"Retry-After": "2"})]
    begin = time.monotonic()
    writer = http_writer(api.url, time_limit=1)

    assert writer.write([make_row(0)]).waiting == 1
    assert time.monotonic() - begin < 1
    later = writer.write([make_row(1)])
    assert deliver(api.url).waiting == 2
    assert len(api.requests) == 1
    assert "asked to wait" in later.reason
    time.sleep(max(0, begin + 2.2 - time.monotonic()))
    assert writer.write([make_row(2)]).written == 3
    assert api.has_once(range(3))


JOB = """
import sys
from ftdoctor.prediction.rows import PredictionRow, new_id, now
from ftdoctor.prediction.writers import open_writer
writer = open_writer(sys.argv[1])
for step in map(int, sys.argv[2:]):
    rows = [PredictionRow(new_id(), "job-1", "u", 0.5, step, n, "p", "t", "x", None, 0.1, 2, "f", now()) for n in range(2)]
    print(writer.write(rows), flush=True)
"""


@pytest.mark.parametrize("processed", [False, True], ids=["before the server processed", "after it did"])
def test_a_killed_process_delivers_at_its_next_start(api, processed):
    """The kill comes between spooling and delivery, or between processing and removal."""
    victim = []

    def kill(handler):
        if processed:
            handler.process()
        os.kill(victim[0].pid, signal.SIGKILL)
        victim[0].wait()

    api.script = [200, kill]
    victim.append(subprocess.Popen([sys.executable, "-c", JOB, api.url, "0", "1", "2"], stdout=subprocess.DEVNULL))
    assert victim[0].wait(30) == -signal.SIGKILL

    again = subprocess.run([sys.executable, "-c", JOB, api.url, "2"], capture_output=True, text=True, check=True)

    assert "written=4, waiting=0" in again.stdout
    assert api.has_once([0, 0, 1, 1, 2, 2])
    assert len({row["id"] for row in api.rows}) == 6


def test_a_killed_process_is_delivered_at_close_or_by_hand(api, make_row):
    """A writer that never writes delivers too."""
    api.script = [503] * 50
    http_writer(api.url, time_limit=0.3).write([make_row(0)])
    api.script = []

    assert open_writer(api.url).close().written == 1
    assert deliver(api.url).written == 0
    assert api.has_once([0])


def test_several_processes_share_a_spool(api):
    """Some requests fail; each row arrives once, in the order of its job."""
    api.script = [200, 503, 200, 500] * 5
    program = JOB.replace('"job-1"', "sys.argv[1][-1:] or 'j'").replace("sys.argv[1])", "sys.argv[1][:-1])")
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", program, f"{api.url}{n}", *map(str, range(10))], stdout=subprocess.DEVNULL
        )
        for n in range(3)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert deliver(api.url).waiting == 0

    assert len({row["id"] for row in api.rows}) == len(api.rows) == 60
    for n in range(3):
        assert [row["step"] for row in api.rows if row["job"] == str(n)] == [s for s in range(10) for _ in range(2)]


@pytest.mark.parametrize("status", [403, 413, 422])
def test_rows_of_a_job_that_this_token_may_not_write_hold_no_other(api, make_row, caplog, status):
    """They wait for their own job, whatever the server says, and are asked for once only."""

    def mine_only(handler):
        return status if handler.batch[0]["job"] == "other" else 200

    api.script = [403] + [mine_only] * 10
    open_writer(api.url).write([make_row(0, job="other")])
    caplog.clear()
    writer = open_writer(api.url)

    deliveries = [writer.write([make_row(n)]) for n in (1, 2)]

    assert [(d.written, d.waiting) for d in deliveries] == [(1, 0), (1, 0)]
    assert len(api.requests) == 4
    assert writer.spool.refused() == []
    assert "answered" not in caplog.text  # it is not this job's trouble
    assert "other jobs" in open_writer(api.url).close().reason
    api.script = []
    assert open_writer(api.url).write([make_row(3, job="other")]).written == 2


def test_no_global_generator_is_drawn_from(api, make_row):
    """The training's shuffles and masks would change."""
    np = pytest.importorskip("numpy")
    api.script = [500, 503]
    before = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    open_writer(api.url).write([make_row()])

    assert (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]) == before


def test_a_full_disk_after_the_delivery_loses_nothing(api, make_row):
    """The spool cannot be changed: the rows are sent again under the same key."""
    writer = open_writer(api.url)

    def unwritable(handler):
        writer.spool.path.rename(writer.spool.path.with_suffix(".away"))
        writer.spool.path.mkdir()
        return 200

    api.script = [unwritable]
    delivery = writer.write([make_row(0)])
    writer.spool.path.rmdir()
    writer.spool.path.with_suffix(".away").rename(writer.spool.path)

    assert delivery.waiting == 1
    assert "cannot be changed" in delivery.reason
    assert writer.close().written == 1
    assert api.has_once([0])


def test_a_server_that_asks_for_no_pause_is_not_hammered(api, make_row):
    """`Retry-After: 0` is no leave to ask a hundred times a second."""
    api.script = [(503, {"Retry-After": "0"})] * 1000

    http_writer(api.url, time_limit=1.5).write([make_row()])

    assert len(api.requests) < 15


def test_a_call_that_takes_too_long_is_left_behind():
    """What it raises or returns in time is passed on."""
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, lambda: time.sleep(2))
    assert time.monotonic() - begin < 1
    with pytest.raises(KeyError):
        within(1, lambda: {}["x"])
    assert within(1, lambda: 7) == 7


def test_an_empty_spool_takes_no_room(api, make_row):
    """After a long outage too."""
    writer = http_writer(api.url, time_limit=0.2)
    api.script = [503] * 10
    writer.write([make_row(n, prompt="p" * 100_000) for n in range(30)])
    before = writer.spool.path.stat().st_size
    api.script = []
    writer.time_limit = 10

    assert writer.close().written == 30
    assert before > 2_000_000
    assert writer.spool.path.stat().st_size < 100_000
