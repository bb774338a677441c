"""Addresses of receivers without what may be secret in them."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlencode, urlsplit

from ftdoctor.errors import PredictionError

_SECRET = re.compile("pass|pwd|token|secret|key|auth|sig|cred|user", re.IGNORECASE)


def http_address(url: str) -> tuple[str, str]:
    """Return how an HTTP URL is shown, without its query, and what tells its receiver from others.

    Raises:
        PredictionError: it has no host, a port that is none, or a user or password in it.
    """
    problem = ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Said outside of the handler: the caught error repeats what may be a password.
        problem = "is not a valid URL"
    else:
        if "@" in parts.netloc:
            problem = "holds a user or password: give the token in JOB_TOKEN instead"
        elif not host or not url.isascii() or re.search(r"[\s\x00-\x1f]", url):
            problem = "is not a valid URL: write it as https://host/path, other characters percent-encoded"
    if problem:
        raise PredictionError(f"The address of the HTTP API {problem}.")
    bracketed = f"[{host}]" if ":" in str(host) else host
    where = f"{parts.scheme.lower()}://{bracketed}{f':{port}' if port else ''}{parts.path}"
    return where, f"{where}?{urlencode(telling(parse_qsl(parts.query, keep_blank_values=True)))}"


def telling(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the options of a URL that are neither secret nor change with the secrets."""
    return sorted(pair for pair in pairs if not _SECRET.search(pair[0]))


def scrubbed(text: str, secrets: list[str]) -> str:
    """Return the first line of a text, at most 200 characters, without the secrets in any of their spellings."""
    line = (text.strip().splitlines() or [""])[0]
    spellings = {way(secret) for secret in secrets if secret for way in (str, quote, quote_plus, unquote, repr)}
    for spelling in sorted(spellings, key=len, reverse=True):
        line = line.replace(spelling, "***")
    return line[:200]
