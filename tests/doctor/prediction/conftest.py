"""Rows, and an HTTP API that misbehaves on demand."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import time

import pytest

from ftdoctor.prediction.rows import PredictionRow, new_id, now

NASTY = {
    "script": "</script><script>alert(1)</script>",
    "ansi": "\x1b[31mred\x1b[0m \x07\x9b",
    "nul": "a\x00b\x00",
    "lone surrogate": "\ud800 and \udfff",
    "a pair of lone surrogates": "\ud83d\ude00 is not \U0001f600",
    "backslashes": "\\ud800 \\x00 \\n",
    "line ends": "a\r\nb\rc\nd\u2028e\x85f",
    "replacement": "\ufffd",
    "empty": "",
    "megabyte": "ä\x00" * 500_000,
}
"""Texts that something on the way would like to change."""


@pytest.fixture
def make_row():
    """Return a function that makes a row of a step; anything else by its name."""

    def make(step=0, **other):
        values = dict(
            id=new_id(), job="job-1", user="ann", epoch=1.5, step=step, sample_index=3, prompt="Who?",
            ground_truth="Me.", prediction="You.", error=None, seconds=0.25, tokens=4, model_dtype="bfloat16",
            created_at=now(),
        )  # fmt: skip
        return PredictionRow(**{**values, **other})

    return make


@pytest.fixture(params=NASTY)
def nasty(request):
    """One of the texts after the other."""
    return NASTY[request.param]


class Api(http.server.ThreadingHTTPServer):
    """Takes batches as a real API does: a key that it has seen is acknowledged and not processed again.

    `script` says what the next requests meet, one entry each: a status, or (status, headers), or a function of the
    handler that returns one of them, or None where it has answered itself. When it is empty everything is taken.
    """

    daemon_threads = True
    request_queue_size = 50

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.keys, self.rows = [], [], [], []
        self.bad = set()
        self.most = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1/predictions"

    @property
    def steps(self):
        return [row["step"] for row in self.rows]

    def has_once(self, steps):
        """Nothing lost, nothing twice, in order."""
        return self.steps == list(steps) and len(self.keys) == len(set(self.keys))

    def process(self, key, rows):
        if key not in self.keys:
            self.keys.append(key)
            self.rows.extend(rows)

    def handle_error(self, request, client_address):
        """A client that has gone is what is tested here."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads the batch, and answers as the script says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.key, self.batch = self.headers["Idempotency-Key"], json.loads(body)["rows"]
        self.server.requests.append((time.monotonic(), self.key, dict(self.headers), self.path, body))
        entry = self.server.script.pop(0) if self.server.script else 200
        answer = entry(self) if callable(entry) else entry
        if answer is None:
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        if status == 200 and self.server.most and len(self.batch) > self.server.most:
            status = 413
        if status == 200 and any(row["step"] in self.server.bad for row in self.batch):
            status = 422
        if 200 <= status < 300:
            self.process()
        self.answer(status, headers)

    def process(self):
        self.server.process(self.key, self.batch)

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def cut(self):
        """Begin an answer and end the connection within it."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_):
        """Not on the terminal."""


@pytest.fixture
def token(monkeypatch, state_folder, caplog, capfd):
    """A job's token, and at the end it is in no log of any level, not on the terminal, and no byte of it on the disk."""
    token = "s3cret-t0ken"
    monkeypatch.setenv("JOB_TOKEN", f"{token}\n")
    for name in ("http_proxy", "HTTP_PROXY", "METRICS_API_URL"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)
    yield token
    assert token not in caplog.text + "".join(capfd.readouterr())
    for path in state_folder.rglob("*"):
        assert path.is_dir() or token.encode() not in path.read_bytes()


@pytest.fixture
def api(token):
    """A server in a thread."""
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
