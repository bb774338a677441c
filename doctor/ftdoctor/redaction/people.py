"""Who and where: user names, host names and home folders in a text, and what stands in their place."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import ftdoctor_matrix as matrix

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping

USER, HOST, HOME = "<user>", "<host>", "~"
SEP = r"(?:/|\\{1,4}|%2[Ff]|%5[Cc])"
"""What parts a path: also escaped in JSON, and in a URL."""
AFTER = r"(?![\w.-])"
HOMES = re.compile(
    rf"(?P<before>(?:[A-Za-z]:)?{SEP}(?:(?:usr|export){SEP})?(?:home|Users|homes|Documents and Settings){SEP}{{1,2}})"
    r"(?P<name>[^\s/\\\"'<>:,;|()\[\]{}*?$%&=]+(?: [^\s/\\\"'<>:,;|()]+(?=\\))?)"
)
"""A folder of someone's: a name in it may hold a space on Windows."""
ROOT = re.compile(
    rf"(?:(?<![\w./~>-])|(?<=file://)|(?<=-[A-Za-z]))(?:/private)?(?:/var)?/root(?={SEP}|[\"'\s:,;)\]}}]|\Z)"
)
FOLDERS = ("users", "user", "scratch", "work", "data", "projects")
"""Folders in which each user has one of its own."""
NO_ONES = ("shared", "public", "default", "linuxbrew", "runner", "all users", ".ecryptfs", "lost+found")
"""Folders beside those of people. (`runner` is whose machines GitHub lends.)"""


@dataclass(frozen=True)
class Name:
    """A pattern for a name, with what stands in its place."""

    kind: str
    holds: str
    """What every text with it holds, in small letters."""
    pattern: re.Pattern[str]
    becomes: str


@dataclass(frozen=True)
class People:
    """The names of this machine and of whoever works on it."""

    names: tuple[Name, ...]

    def clean(self, text: str, removed: Counter[str]) -> str:
        """Return the text without names of people and machines."""
        lower = text.lower()
        for name in self.names:
            if name.holds in lower:
                text, number = name.pattern.subn(name.becomes, text)
                removed[name.kind] += number
        if "/root" in text:
            text, number = ROOT.subn(HOME, text)
            removed["home folder"] += number
        if "home" in lower or "users" in lower or "documents and" in lower:
            text = HOMES.sub(lambda found: _of_someone(found, removed), text)
        return text


def people(environ: Mapping[str, str]) -> People:
    """Return the names of this process: its user, host and home folder."""
    users, host = tuple(dict.fromkeys(_users(environ))), tuple(dict.fromkeys(_hosts(environ)))
    names = [*_home_patterns(_homes(environ))]
    names += [_anywhere("user name", full, USER, re.IGNORECASE) for full in _full_names()]
    for user in users:
        names += _user_patterns(user)
    for name in sorted(host, key=len, reverse=True):
        names += _host_patterns(name)
    return People(tuple(names))


def domains(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the domains of this machine: those in its name, and those in which it looks for others."""
    found = [name.partition(".")[2] for name in _hosts(environ)]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if words[:1] in (["search"], ["domain"]):
                found += words[1:]
    return tuple(dict.fromkeys(d.strip(".").lower() for d in found if "." in d.strip(".")))


def _users(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "LNAME"):
        yield from filter(None, [environ.get(variable, "").strip()])
    for home in _homes(environ):
        *_, above, name = re.split(r"[/\\]", home)
        if above.lower() in ("home", "homes", "users"):
            yield name
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        yield pwd.getpwuid(os.getuid()).pw_name


def _full_names() -> Iterator[str]:
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        full = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0].strip()
        if " " in full and len(full) >= 6 and full.lower() not in matrix.private().common:
            yield full


def _hosts(environ: Mapping[str, str]) -> Iterator[str]:
    for name in (platform.node(), environ.get("HOSTNAME", ""), environ.get("COMPUTERNAME", "")):
        host = name.strip().strip(".")
        if host and not host.replace(".", "").isdigit():
            yield host
            yield host.partition(".")[0]


def _homes(environ: Mapping[str, str]) -> list[str]:
    homes = [environ.get("HOME", ""), environ.get("USERPROFILE", "")]
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    homes += [os.path.realpath(home) for home in homes if home]
    kept = [h.rstrip("/\\") for h in homes if len(re.split(r"[/\\]", h.rstrip("/\\"))) > 1]
    ordinary = ("/usr", "/var", "/tmp", "/opt", "/nonexistent", "/bin", "/sbin", "/home", "/etc")  # noqa: S108 - names
    return sorted({h for h in kept if h not in ordinary and not h.startswith("/usr/")}, key=lambda h: (-len(h), h))


def _home_patterns(homes: Iterable[str]) -> Iterator[Name]:
    begins = r"(?:(?<![\w.~>-])|(?<=-[A-Za-z])|(?<=\\[nrt])|(?<=[0-9;\[]m))"
    for home in homes:
        for form in dict.fromkeys((home, home.replace("\\", "\\\\"), home.replace("\\", "/"), quote(home, safe=""))):
            pattern = re.compile(rf"{begins}(?:/private)?{re.escape(form)}{AFTER}", re.IGNORECASE if ":" in form else 0)
            yield Name("home folder", form.lower(), pattern, HOME)


def _user_patterns(user: str) -> Iterator[Name]:
    lower, name = user.lower(), re.escape(user)
    if len(user) < 2 or _is_common(lower):
        return
    if len(user) >= 5 or (len(user) == 4 and not user.isalpha()):
        yield _anywhere("user name", user, USER)
        return
    places = [
        rf"(?<![\w.-]){name}(?=@[\w<-])",
        rf"(?i:(?<=user=)|(?<=user: )|(?<=user ')|(?<=username=)|(?<=logname=)|(?<=owner=)|(?<=[ug]id=\d{{4}}\())"
        rf"{name}(?!\w)",
    ]
    behind = "|".join(f"(?<=/{folder}/)" for folder in FOLDERS)
    places.append(rf"(?i:{behind}){name}{AFTER}")
    if len(user) > 2:
        places.append(rf"(?<=[/\\]){name}(?=[/\\])|(?<=[/\\]){name}(?=[\"'\s:,;)]|\Z)|(?<=[\"']){name}(?=[\"'])")
    yield Name("user name", lower, re.compile("|".join(places)), USER)


def _host_patterns(host: str) -> Iterator[Name]:
    name = re.escape(host)
    label = host.partition(".")[0]
    if len(label) < 2 or host.lower().startswith("localhost"):
        return
    distinct = len(label) >= 6 or (len(label) >= 4 and not label.isalpha())
    if distinct and not _is_common(label.lower()):
        yield _anywhere("host name", host, HOST, re.IGNORECASE)
        return
    begins = r"(?:(?<=@)|(?<=://)|(?<=host=)|(?<=host=')|(?<=hostname=)|(?<=hostname: )|(?<=host: )|(?<=node=))"
    yield Name("host name", host.lower(), re.compile(rf"{begins}{name}(?:\.[a-z][\w-]*)*{AFTER}", re.IGNORECASE), HOST)


def _anywhere(kind: str, name: str, becomes: str, flags: int = 0) -> Name:
    """Return a name that is told apart from other words: it is found wherever it is not part of an identifier."""
    pattern = rf"(?:(?<![\w<])|(?<=\\[nrt])|(?<=[0-9;\[]m)){re.escape(name)}(?!\w)"
    return Name(kind, name.lower(), re.compile(pattern, flags), becomes)


def _is_common(name: str) -> bool:
    known = matrix.private()
    words = known.common | known.ordinary | matrix.axes().keys()
    return name in words or name in (*sys.stdlib_module_names, *matrix.libraries().order)


def _of_someone(found: re.Match[str], removed: Counter[str]) -> str:
    """Take a name out of a path; a page called `home` on a web server is no home folder."""
    word = re.split(r"[\s\"'(<>=,]", found.string[max(0, found.start() - 300) : found.start()])[-1]
    if found["name"].lower() in NO_ONES or ("://" in word and "file://" not in word):
        return found[0]
    removed["home folder"] += 1
    return f"{found['before']}{USER}"
