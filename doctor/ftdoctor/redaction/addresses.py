"""Addresses that only exist inside a network: of machines, registries, proxies and servers."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ftdoctor_matrix as matrix

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Mapping

ADDRESS = "<private address>"
KIND = "private address"
NUMBERED = re.compile(r"(?=\D*\d)[\w-]{5,}")
"""The name of a host without a dot that is told apart from words."""
URL = re.compile(
    r"""(?x)
    (?P<scheme>[A-Za-z][A-Za-z0-9+.-]{1,30}) :// (?:(?:<redacted:\ [^<>]*>|[^\s/@"'<>\\])+@)?
    (?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_](?:[\w.-]*\w)?\.?)
    (?P<rest>(?::\d+)?(?:[/?\#](?:<[a-z ]+>|[^\s"'<>\\`])*)?)
    """
)
INDEX = re.compile(
    r"""(?ix)
    (?: looking\ in\ (?:indexes|links) | (?:failed\ to|could\ not)\ fetch(?:\ url)?
    | --(?:extra-|default-)?index(?:-url)? | --find-links | --proxy | --trusted-host
    | (?:extra-)?index-url | find-links | proxy
    | \w*(?:index_url|_index|find_links|_proxy|_mirror|_registry|_endpoint|_base_url|tracking_uri|trusted_host) )
    ["']? \s{0,3} [:=]? \s{0,3} ["'`]?
    (?P<urls>(?:[a-z][a-z0-9+.-]*://(?:<[^<>]*>|[^\s"'`<>])+(?:,?\s+(?=[a-z]+://))?)+)
    """
)
"""What says that a URL is that of an index, a registry or a proxy."""
IPV4 = re.compile(
    r"(?<![\w.+-])(?:10(?:\.\d{1,3}){3}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2}|(?:192\.168|169\.254)(?:\.\d{1,3}){2}"
    r"|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])(?:\.\d{1,3}){2})(?![\w-]|\.\w)"
)
VERSION = re.compile(
    r"(?i)(?:[=<>!~]=\s*|[<>]\s*|\bv|[\"']?(?:versions?|release|driver|runtime|toolkit|build|rev|cuda|cudnn|cublas|nccl|nvidia[\w-]*|\w+-cu\d\d)"
    r"[\"']?\s*(?:is|of|==|[:=])?\s*[\"'(v]?\s*)\Z"
)
"""What stands before a version: some have four parts and look like an address."""
IPV6 = re.compile(
    r"(?i)(?<![\w:.])(?P<open>\[)?(?:f[cd][0-9a-f]{2}|fe[89ab][0-9a-f]):[0-9a-f:]*:[0-9a-f]{1,4}(?:%\w+)?(?(open)\]|(?![\w:]))"
)
AWS = re.compile(r"(?<![\w-])ip-(?:10|172|192|100)(?:-\d{1,3}){3}(?![\w-])")
MEANT = re.compile(
    r"(?i)(?:@|\bhost(?:name)?[\"']?\s?[=: ]\s?[\"']?|resolve [\"']?|connect(?:ing)? to [\"']?|address=[\"']?)\Z"
)
"""What stands before the name of a host."""


@dataclass(frozen=True)
class Addresses:
    """What is private here.

    Args:
        hosts: names of hosts that the user has configured, in small letters.
        domains: domains of this machine's network.
    """

    hosts: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()

    def clean(self, text: str, removed: Counter[str]) -> str:
        """Return the text without private addresses."""
        if "://" in text:
            text = _sub(INDEX, text, _index, removed)
            text = URL.sub(lambda found: self._url(found, removed), text)
        lower = text.lower()
        for host in self.hosts:
            if host in lower:
                text = _sub(_named(host), text, lambda _: ADDRESS, removed)
        if any(f".{ending}" in lower for ending in self._endings):
            text = _sub(self._below, text, lambda found: ADDRESS if _is_host(found) else found[0], removed)
        if "." in text:
            text = _sub(IPV4, text, _address, removed)
        if "::" in text or text.count(":") > 3:
            text = _sub(IPV6, text, lambda _: ADDRESS, removed)
        return _sub(AWS, text, lambda _: ADDRESS, removed) if "ip-" in lower else text

    def is_private(self, host: str) -> bool:
        """Say whether the host of a URL is of this network: a bare name, or a private or configured one."""
        name = host.strip("[]").rstrip(".").lower()
        if name in ("localhost", "0.0.0.0", "::1", "::") or name.startswith("127."):  # noqa: S104 - only compared
            return False
        known = matrix.private()
        return (
            name in self.hosts
            or ("." not in name and ":" not in name)
            or bool(IPV4.fullmatch(name) or IPV6.fullmatch(name))
            or name.endswith(tuple(f".{e}" for e in (*known.suffixes, *known.also_code, *self.domains)))
        )

    @property
    def _endings(self) -> tuple[str, ...]:
        return (*matrix.private().suffixes, *matrix.private().also_code, *self.domains)

    @property
    def _below(self) -> re.Pattern[str]:
        return _below(self._endings)

    def _url(self, found: re.Match[str], removed: Counter[str]) -> str:
        if found["scheme"].lower().rpartition("+")[2] not in matrix.private().schemes or not self.is_private(
            found["host"]
        ):
            return found[0]
        removed[KIND] += 1
        return ADDRESS + _trailing(found[0])


def _index(found: re.Match[str]) -> str:
    """Take out every URL of a list of indexes and proxies that is not one that everyone knows."""

    def replaced(url: re.Match[str]) -> str:
        return url[0] if is_public(url["host"]) else ADDRESS + _trailing(url[0])

    start = found.start("urls") - found.start()
    return found[0][:start] + URL.sub(replaced, found["urls"])


def addresses(environ: Mapping[str, str], domains: Iterable[str] = ()) -> Addresses:
    """Return what this environment and the configuration of pip and uv say of private hosts."""
    texts = [value for name, value in environ.items() if names_an_address(name)]
    hosts = {host for text in [*texts, *_configured(environ)] for host in _hosts(text) if not is_public(host)}
    return Addresses(frozenset(hosts), tuple(d for d in domains if not is_public(d)))


def names_an_address(variable: str) -> bool:
    """Say whether an environment variable holds the address of a registry, an index, a mirror or a proxy."""
    return any(variable.upper().endswith(known) for known in matrix.private().variables)


def is_public(host: str) -> bool:
    """Say whether everyone knows this host, or it is this machine itself."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.startswith("127."):
        return True
    return any(name == known or name.endswith(f".{known}") for known in matrix.private().public)


def _hosts(text: str) -> Iterator[str]:
    """Yield the hosts that a setting names, also such as `node12`; `proxy` would be found in too many texts."""
    for word in re.split(r"[\s,|]+", text):
        found = URL.search(word)
        host = found["host"] if found else word.partition(":")[0].partition("/")[0]
        if re.search("[A-Za-z]", host) and ("." in host.strip(".") or NUMBERED.fullmatch(host)):
            yield host.lower().strip(".")


def _configured(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the addresses in the configuration files of pip and uv."""
    home = Path(environ.get("HOME") or "/nonexistent")
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [
        Path(sys.prefix) / "pip.conf",
        Path("/etc/pip.conf"),
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/uv/uv.toml"),
    ]
    places += [home / ".pip/pip.conf", home / "Library/Application Support/pip/pip.conf"]
    places += [config / "pip/pip.conf", config / "uv/uv.toml"]
    places += [Path(environ[name]) for name in ("PIP_CONFIG_FILE", "UV_CONFIG_FILE") if environ.get(name)]
    for place in places:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in place.read_text(encoding="utf-8").splitlines():
                if not line.lstrip().startswith(("#", ";")):
                    yield from (found[0] for found in URL.finditer(line))
                    yield from line.partition("trusted-host")[2].split("=")[1:]


def _sub(pattern: re.Pattern[str], text: str, replace: Callable[[re.Match[str]], str], removed: Counter[str]) -> str:
    def counted(found: re.Match[str]) -> str:
        becomes = replace(found)
        removed[KIND] += becomes.count(ADDRESS) - found[0].count(ADDRESS)
        return becomes

    return pattern.sub(counted, text)


def _address(found: re.Match[str]) -> str:
    return found[0] if VERSION.search(found.string[max(0, found.start() - 60) : found.start()]) else ADDRESS


def _trailing(url: str) -> str:
    """Return the signs of the sentence that a URL seems to end with."""
    return url[len(url.rstrip(".,;:!?)]}")) :]


@functools.lru_cache(64)
def _named(host: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-])(?:[\w-]+\.)*{re.escape(host)}(?::\d+)?(?![\w-]|\.\w)", re.IGNORECASE)


@functools.lru_cache(8)
def _below(endings: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of hosts with these endings."""
    names = "|".join(map(re.escape, sorted(endings, key=len, reverse=True)))
    return re.compile(rf"(?i)(?<![\w.\\/-])(?:[a-z0-9][\w-]{{0,62}}\.){{1,8}}(?:{names})(?::\d+)?(?![\w(-]|\.\w)")


def _is_host(found: re.Match[str]) -> bool:
    """Say whether a dotted name is that of a host, where it could also be one of Python's: `threading.local`."""
    known, name = matrix.private(), found[0].lower().partition(":")[0]
    first, ending = name.partition(".")[0], name.rpartition(".")[2]
    if ending not in known.also_code or name.endswith(tuple(f".{e}" for e in known.suffixes)):
        return True
    if MEANT.search(found.string[max(0, found.start() - 30) : found.start()]) or ":" in found[0]:
        return True
    if ending in ("local", "internal"):
        return first not in sys.stdlib_module_names and first not in known.common | known.ordinary and "_" not in name
    return re.search("[0-9-]", name) is not None
