"""A redactor for the tests of redaction."""

from __future__ import annotations

import pytest

from ftdoctor.redaction import here


@pytest.fixture(scope="module")
def clean():
    """A redactor that knows of no secret in the environment."""
    return here({"HOME": "/nonexistent", "PATH": "/bin"})
