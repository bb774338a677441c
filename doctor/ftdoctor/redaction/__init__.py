"""What is taken out of everything that is written, so that a report can be attached to a public ticket.

Secrets (tokens, keys, passwords, values of variables that look secret) become `<redacted: kind>`, names of people and
machines `<user>` and `<host>`, home folders `~`, and addresses inside a network `<private address>`. What secrets look
like stands in `matrix/ftdoctor_matrix/redaction.toml`.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from ftdoctor.redaction.addresses import addresses
from ftdoctor.redaction.people import domains, people
from ftdoctor.redaction.redactor import Redactor
from ftdoctor.redaction.secrets import secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Redactor", "here", "secrets_here"]


def here(environ: Mapping[str, str] | None = None, extra: Iterable[str] = ()) -> Redactor:
    """Return what takes everything out that this process knows of.

    Args:
        environ: the environment whose secrets, names and addresses count; that of this process by default.
        extra: regular expressions of what else must go.

    Raises:
        UsageError: one of them is no regular expression.
    """
    environ = os.environ if environ is None else environ
    return Redactor(secrets(environ, extra), people(environ), addresses(environ, domains(environ)))


@functools.cache
def secrets_here() -> Redactor:
    """Return what takes out only secrets, and leaves names and paths: for what is kept on this machine.

    Texts go through it before they are cut, for half a token is not recognised.
    """
    return Redactor(secrets(os.environ))
