"""Delivery to a real server that refuses, stalls, cuts, and comes back: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from ftdoctor.prediction.http_api import http_writer
from ftdoctor.prediction.stored import from_record
from ftdoctor.prediction.writers import deliver, open_writer


def test_a_batch_is_posted_with_token_and_key(api, token, make_row):
    """As JSON, to the address with its query."""
    rows = [make_row(n) for n in range(3)]

    delivery = open_writer(f"{api.url}?project=7").write(rows)

    (_, key, headers, path, body) = api.requests[0]
    assert (delivery.written, delivery.waiting, delivery.refused, delivery.reason) == (3, 0, 0, "")
    assert headers["Authorization"] == f"Bearer {token}"
    assert headers["Content-Type"] == "application/json"
    assert len(key) == 32
    assert path == "/v1/predictions?project=7"
    assert json.loads(body) == {"rows": [row.as_dict() for row in rows]}


def test_address_and_token_come_from_the_environment(api, make_row, monkeypatch):
    """Read when the writer is opened; without a token no header is sent."""
    monkeypatch.setenv("METRICS_API_URL", api.url)
    monkeypatch.delenv("JOB_TOKEN")
    writer = open_writer("http")
    monkeypatch.setenv("METRICS_API_URL", "http://127.0.0.1:9/elsewhere")

    assert writer.write([make_row()]).written == 1
    assert "Authorization" not in api.requests[0][2]


@pytest.mark.parametrize("token", ["a b", "a\nb", "töken", "a\x7fb"])
def test_a_token_that_no_header_can_hold_is_refused_unsaid(api, monkeypatch, token):
    monkeypatch.setenv("JOB_TOKEN", token)

    with pytest.raises(ValueError, match="JOB_TOKEN holds") as caught:
        open_writer(api.url)
    assert token not in str(caught.value)


def test_texts_arrive_whole(api, make_row, nasty):
    """As valid JSON without NUL and surrogates, which many servers cannot keep, and exact beside it."""
    row = make_row(prompt=nasty, ground_truth=nasty, prediction=nasty, error=nasty)

    assert open_writer(api.url).write([row]).written == 1

    assert from_record(api.rows[0]) == row
    assert "\x00" not in api.rows[0]["prediction"]
    api.rows[0]["prediction"].encode()


def test_the_address_is_shown_without_query(api):
    """Which often holds a key."""
    assert "hunter2" not in repr(open_writer(f"{api.url}?api_key=hunter2"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_passing_failure_is_tried_again(api, make_row, status):
    """With the same key, within the call."""
    api.script = [status, status]

    delivery = open_writer(api.url).write([make_row(n) for n in range(3)])

    assert (delivery.written, delivery.waiting) == (3, 0)
    assert len(api.requests) == 3
    assert len({key for _, key, *_ in api.requests}) == 1
    assert api.has_once(range(3))


@pytest.mark.parametrize(("status", "said"), [(401, "JOB_TOKEN"), (403, "JOB_TOKEN"), (404, "METRICS_API_URL")])
def test_what_somebody_must_mend_is_said_once_and_waits(api, make_row, caplog, status, said):
    """No second try in the same call, one at the next."""
    writer = open_writer(api.url)
    api.script = [status, status]

    first, second = writer.write([make_row(0)]), writer.write([make_row(1)])
    third = writer.close()

    assert (first.waiting, second.waiting, third.written, third.waiting) == (1, 2, 2, 0)
    assert str(status) in first.reason
    assert said in first.reason
    assert [said in r.message for r in caplog.records if r.levelno == logging.WARNING] == [True]
    assert api.has_once(range(2))


def test_too_large_a_batch_is_halved(api, make_row):
    """With new keys, in order."""
    api.most = 3

    delivery = open_writer(api.url).write([make_row(n) for n in range(10)])

    assert (delivery.written, delivery.refused) == (10, 0)
    assert api.has_once(range(10))


def test_a_row_too_large_is_kept_aside(api, make_row):
    """And can be read, and tried again later."""
    rows = [make_row(n) for n in range(4)]
    writer = open_writer(api.url)
    api.script = [413, 413, 200, 413, 200]  # all; 0-1; 0; 1; 2-3

    delivery = writer.write(rows)

    assert (delivery.written, delivery.waiting, delivery.refused) == (3, 0, 1)
    assert "413" in delivery.reason
    assert [row for row, _ in writer.spool.refused()] == [rows[1]]
    assert deliver(api.url, refused=True).written == 1
    assert api.steps == [0, 2, 3, 1]


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_bad_row_holds_no_other(api, make_row, status):
    """It is found by halves and kept aside; the next writes go on."""

    def refuse(handler):
        return status if any(row["step"] == 5 for row in handler.batch) else 200

    writer = open_writer(api.url)
    writer._chance = type("Soon", (), {"uniform": lambda self, low, high: 0.0})()
    api.script = [refuse] * 60

    delivery = writer.write([make_row(n) for n in range(8)])

    assert (delivery.written, delivery.waiting, delivery.refused) == (7, 0, 1)
    assert [row.step for row, _ in writer.spool.refused()] == [5]
    assert api.has_once([0, 1, 2, 3, 4, 6, 7])


def test_a_key_in_progress_is_asked_again_and_not_halved(api, make_row):
    """409 also says that the first try is still worked on."""
    api.script = [409, 409]

    assert open_writer(api.url).write([make_row(0), make_row(1)]).written == 2
    assert len({key for _, key, *_ in api.requests}) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_within_the_limit(api, make_row, form):
    """The second request comes no earlier; a date is measured by the server's clock, an hour late here."""

    def limited(handler):
        server_clock = time.time() - 3600
        handler.date_time_string = lambda timestamp=None: email.utils.formatdate(server_clock, usegmt=True)
        value = "1" if form == "seconds" else email.utils.formatdate(server_clock + 2, usegmt=True)
        return 429, {"Retry-After": value}

    api.script = [limited]

    delivery = open_writer(api.url).write([make_row()])

    assert delivery.written == 1
    assert 1.0 <= api.requests[1][0] - api.requests[0][0] < 4


@pytest.mark.parametrize("value", ["soon", "-5", "", "99999999999999999999999"])
def test_a_senseless_retry_after_does_no_harm(api, make_row, value):
    """It is ignored, or held for a day at most."""
    api.script = [(503, {"Retry-After": value})]

    delivery = open_writer(api.url).write([make_row()])

    assert delivery.written + delivery.waiting == 1


def stall(handler):
    time.sleep(3)


def trickle(handler):
    """An answer of one byte every 0.2 seconds: no single read ever waits long."""
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 15:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.2)
    except OSError:
        pass
    handler.close_connection = True


@pytest.mark.parametrize("behaviour", [stall, trickle])
def test_a_server_that_stalls_holds_up_training_no_longer_than_the_limit(api, make_row, behaviour):
    """And what it had processed is not twice there afterwards."""

    def processed(handler):
        handler.process()
        behaviour(handler)

    api.script = [processed]
    writer = http_writer(api.url, time_limit=1)
    begin = time.monotonic()

    delivery = writer.write([make_row(0)])

    assert time.monotonic() - begin < 1.5
    assert delivery.waiting == 1
    assert "no answer within 1 seconds" in delivery.reason
    assert writer.write([make_row(1)]).written == 2
    assert api.has_once(range(2))


def test_an_answer_cut_in_the_middle_is_asked_for_again(api, make_row):
    """The server had processed the batch: by the key it knows it."""

    def cut(handler):
        handler.process()
        handler.cut()

    api.script = [cut]

    assert open_writer(api.url).write([make_row(n) for n in range(3)]).written == 3
    assert len(api.requests) == 2
    assert api.has_once(range(3))


def test_an_answer_before_the_end_of_the_body_is_heard():
    """A server that says 413 as soon as it has seen the length, and closes."""
    from ftdoctor.prediction.http_api import HttpApi
    from ftdoctor.prediction.spool import Batch

    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            connection, _ = server.accept()
            with connection:
                connection.recv(2000)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        answer = HttpApi(url, url, "").send(Batch("k", "j", (b'"' + b"x" * 30_000_000 + b'"',)), 5, 0)

    assert answer.kind == "bad"
    assert "413" in answer.reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_follows_no_redirect(api, make_row, status):
    """The other host gets nothing; the rows wait and the host is named."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.3)
        api.script = [(status, {"Location": f"http://localhost:{other.getsockname()[1]}/x?key=hunter2"})]
        delivery = open_writer(api.url).write([make_row()])
        with contextlib.suppress(TimeoutError):
            asked.append(other.accept())

    assert asked == []
    assert delivery.waiting == 1
    assert str(status) in delivery.reason
    assert "http://localhost" in delivery.reason
    assert "hunter2" not in delivery.reason


def test_a_proxy_of_the_environment_is_used(api, make_row, monkeypatch):
    """Clusters often have no other way out."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{api.server_port}")

    assert open_writer("http://metrics.invalid/v1").write([make_row()]).written == 1
    assert api.requests[0][3] == "http://metrics.invalid/v1"


def test_tls_is_checked(api, make_row, monkeypatch, tmp_path):
    """Rows arrive where the certificate is known, and wait where it is not."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    names = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    about = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *about]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    api.socket = context.wrap_socket(api.socket, server_side=True)
    url = api.url.replace("http:", "https:")

    unknown = http_writer(url, time_limit=0.5).write([make_row(0)])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    known = open_writer(url).write([make_row(1)])

    assert unknown.waiting == 1
    assert "certificate" in unknown.reason
    assert known.written == 2


def test_a_token_in_clear_text_is_warned_of(token, caplog):
    """Where it leaves the machine."""
    open_writer("http://metrics.example.com/v1")

    assert "not encrypted" in caplog.text
