"""Sabotage stays what it replaces: methods methods, class methods class methods."""

from __future__ import annotations

import importlib
import sys

import pytest

from ftdoctor.patch import Patch


class Library:
    def method(self, x):
        return ("method", type(self).__name__, x)

    @classmethod
    def of(cls, x):
        return ("class", cls.__name__, x)

    @staticmethod
    def plain(x):
        return ("static", x)


@pytest.mark.parametrize(
    ("name", "call"), [("method", lambda c: c().method(1)), ("of", lambda c: c.of(1)), ("plain", lambda c: c.plain(1))]
)
def test_wrap_hands_the_original_and_its_arguments(tmp_path, name, call):
    """Whatever kind of attribute it is, also through a subclass."""
    copy = type("Library", (), dict(vars(Library)))
    child = type("Child", (copy,), {})
    expected = call(child)
    Patch(tmp_path).wrap(copy, name, lambda original, *args, **kwargs: [original(*args, **kwargs)])

    assert call(child) == [expected]


def test_a_fault_of_something_that_is_gone_is_an_error(tmp_path):
    """Or else it would silently do nothing after a rename."""
    with pytest.raises(AttributeError):
        Patch(tmp_path).replace(Library, "renamed", None)
    with pytest.raises(AttributeError):
        Patch(tmp_path).wrap(Library, "renamed", None)


def test_shadow_puts_a_stray_file_first(tmp_path, monkeypatch):
    """As a file of that name in the user's folder would be."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    Patch(tmp_path).shadow("stray_module", "value = 1\n")

    assert importlib.import_module("stray_module").value == 1
    del sys.modules["stray_module"]
