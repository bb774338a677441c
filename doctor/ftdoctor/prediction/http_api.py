"""Predictions to an HTTP API: JSON batches with a bearer token and an idempotency key.

The standard library's client is enough for one POST at a time, and is in no version's way. (httpx needs anyio and h11,
httpx2 Python 3.11; the retries of urllib3 and tenacity draw from the global random generator, which is the training's.)
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ftdoctor.errors import PredictionError
from ftdoctor.prediction.address import http_address
from ftdoctor.prediction.delivering import TIME_LIMIT, Answer, SpoolingWriter, within
from ftdoctor.prediction.spool import FARTHEST, Spool

if TYPE_CHECKING:
    from email.message import Message

    from ftdoctor.prediction.spool import Batch

REQUEST_LIMIT = 5.0
"""Seconds for one request, from looking up the name to the end of the answer."""
LONGEST_ANSWER = 65_536
"""Bytes of an answer that are read; nothing in them matters."""
IN_PROGRESS = 409
"""Also says that a request with the same key is still worked on, so it is asked again a few times."""
_TRIES_IN_PROGRESS = 3
_AGAIN = (408, 425, 429)
_TOO_MUCH = 413
_TO_CHECK = {
    401: "check JOB_TOKEN",
    402: "check the account",
    403: "check what JOB_TOKEN allows, and JOB_ID",
    404: "check the address in METRICS_API_URL",
    405: "check the address in METRICS_API_URL",
    407: "check the proxy's user and password",
    410: "check the address in METRICS_API_URL",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_LOG = logging.getLogger("ftdoctor.prediction")


def http_writer(url: str, spool: str = "", *, time_limit: float = TIME_LIMIT) -> SpoolingWriter:
    """Return a writer to an HTTP API; METRICS_API_URL and JOB_TOKEN are read from the environment now.

    Args:
        url: `https://host/path`, or `http` for METRICS_API_URL.
        spool: folder of the queue.
        time_limit: seconds that one call may take.

    Raises:
        PredictionError: no address is given, or it or the token cannot be used.
    """
    if url == "http":
        url = os.environ.get("METRICS_API_URL", "").strip()
        if not url.lower().startswith(("http://", "https://")):
            raise PredictionError("METRICS_API_URL must hold the address of the HTTP API: https://host/path.")
    shown, identity = http_address(url)
    receiver = HttpApi(url, shown, _token())
    return SpoolingWriter(receiver, Spool(spool, identity, urlsplit(shown).hostname or ""), time_limit)


class HttpApi:
    """Posts batches: `{"rows": [...]}` with `Authorization: Bearer` and `Idempotency-Key`.

    Proxies of the environment are used, redirects are not followed: the token goes to the given address only.
    """

    def __init__(self, url: str, shown: str, token: str) -> None:
        self.shown = shown
        self._url = url.partition("#")[0]
        self._token = token
        self._opener = urllib.request.build_opener(_Http, _Https, _NoRedirects)
        parts = urlsplit(shown)
        if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            _LOG.warning("%s is not encrypted: whoever is on the way can read JOB_TOKEN.", shown)

    def __repr__(self) -> str:
        return f"HttpApi({self.shown!r})"

    def send(self, batch: Batch, seconds: float, tries: int) -> Answer:
        """Post a batch; see `Receiver`."""
        limit = min(seconds, REQUEST_LIMIT)
        try:
            status, headers = within(limit, lambda: self._post(batch, limit))
        except TimeoutError:
            return Answer("again", f"{self.shown} gave no answer within {limit:.0f} seconds.", "no answer")
        except (OSError, http.client.HTTPException) as error:
            return Answer("again", f"{self.shown} cannot be reached ({_why(error)}).", "no connection")
        return self._answer(status, headers, tries)

    def close(self) -> None:
        """Each request has a connection of its own."""

    def _post(self, batch: Batch, limit: float) -> tuple[int, Message]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": batch.key, "User-Agent": "ftdoctor"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        body = b'{"rows": [' + b", ".join(batch.bodies) + b"]}"
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 http_writer took no other
        try:
            with self._opener.open(request, timeout=limit) as response:
                if len(response.read(LONGEST_ANSWER)) < LONGEST_ANSWER and response.length:
                    # An answer that is cut counts as none: the same key makes asking again harmless.
                    raise http.client.IncompleteRead(b"", response.length)
                return response.status, response.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers

    def _answer(self, status: int, headers: Message, tries: int) -> Answer:
        said = f"{self.shown} answered {status}"
        about = str(status)
        if 200 <= status < 300:
            return Answer("taken")
        if status in _AGAIN or status >= 500 or (status == IN_PROGRESS and tries < _TRIES_IN_PROGRESS):
            return Answer("again", f"{said}; the rows wait.", about, _retry_after(headers))
        if status < 400:
            return Answer("blocked", f"{said}, a redirect{_target(headers)}: give the final address.", about)
        if status in _TO_CHECK:
            return Answer("blocked", f"{said}; {_TO_CHECK[status]}, the rows wait on disk.", about)
        if status == _TOO_MUCH:
            return Answer("bad", f"{said}: a row is too large for it and is kept aside.", about)
        return Answer("bad", f"{said}: it refuses a row, which is kept aside.", about)


class _Connection(http.client.HTTPConnection):
    """Reads the answer of a server that has answered, with 413 as a rule, before it had the whole body."""

    def send(self, data: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().send(data)


class _SafeConnection(http.client.HTTPSConnection):
    """The same over TLS."""

    def send(self, data: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            super().send(data)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SafeConnection, request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Gives a redirect to the caller as it is."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _token() -> str:
    token = os.environ.get("JOB_TOKEN", "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise PredictionError("JOB_TOKEN holds a space, a line break or another character that no token has.")
    return token


def _retry_after(headers: Message) -> float | None:
    """Return the seconds that the server asks to wait; a date is measured by the server's own clock."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return min(float(value), FARTHEST)
    moment, now = _date(value), _date(headers.get("Date") or "")
    if moment is None:
        return None
    now = now or datetime.datetime.now(datetime.timezone.utc)
    return min(max(0.0, (moment - now).total_seconds()), FARTHEST)


def _date(text: str) -> datetime.datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _target(headers: Message) -> str:
    """Return ` to https://host` for a redirect, without path and query, which may hold secrets."""
    try:
        parts = urlsplit(headers.get("Location") or "")
        return f" to {parts.scheme}://{parts.hostname}" if parts.hostname else ""
    except ValueError:
        return ""


def _why(error: BaseException) -> str:
    """Return the cause in a few words: texts of other errors than the system's may repeat what was sent."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__
