"""The matrix is data: it reads, it agrees with itself, and a mistake in it is named."""

from __future__ import annotations

import pytest

import ftdoctor_matrix as matrix
from ftdoctor import registry
from ftdoctor.bench.tokenizers import SIZES, STYLES
from ftdoctor.errors import MatrixError


@pytest.fixture
def files(monkeypatch):
    """Put other content into the files, with empty caches before and after."""

    def put(**content):
        read = matrix.read
        monkeypatch.setattr(matrix, "read", lambda name: content.get(name.removesuffix(".toml")) or read(name))
        for cached in (matrix.axes, matrix.impossible, matrix.families, matrix.profiles, matrix.libraries):
            cached.cache_clear()

    yield put
    monkeypatch.undo()
    put()


def test_the_axes_of_the_design_are_there():
    """With their default first."""
    axes = matrix.axes()

    assert {
        "family",
        "vocabulary",
        "quantization",
        "dtype",
        "mixed_precision",
        "attention",
        "adapter",
        "checkpointing",
        "device",
    } <= set(axes)
    assert (axes["family"].default, axes["vocabulary"].default, axes["device"].default) == ("llama", "512", "cpu")


def test_every_family_and_vocabulary_can_be_built():
    """An axis value without its recipe would fail only in a cell."""
    assert set(matrix.axes()["family"].values) == set(matrix.families())
    assert set(matrix.axes()["vocabulary"].values) == set(SIZES)
    assert {f.template for f in matrix.families().values()} <= set(STYLES)


def test_every_axis_is_varied_by_a_probe():
    """An axis that nothing uses would be an option that does nothing."""
    used = {axis for probe in registry.probes().values() for axis in probe.axes}

    assert set(matrix.axes()) == used


def test_the_four_profiles_of_the_design_are_there():
    """Quick varies one factor, default pairs, full triples, reference five configurations."""
    profiles = matrix.profiles()

    assert [profiles[n].strength for n in ("quick", "default", "full")] == [1, 2, 3]
    assert len(profiles["reference"].cells) == 5


AXIS = {"summary": "s", "values": ["a", "b"]}


@pytest.mark.parametrize(
    ("content", "ask", "sentence"),
    [
        (
            {"axes": {"x": {**AXIS, "vals": 1}}},
            matrix.axes,
            r"axes.toml \[x\] has no 'vals' \(did you mean 'values'\?\)",
        ),
        ({"axes": {"x": {**AXIS, "value": {"c": {}}}}}, matrix.axes, "has no 'c'"),
        ({"axes": {"x": AXIS, "impossible": [{"cell": {"y": ["a"]}, "why": ""}]}}, matrix.impossible, "has no 'y'"),
        ({"axes": {"x": AXIS, "impossible": [{"cell": {"x": ["c"]}, "why": ""}]}}, matrix.impossible, "has no 'c'"),
        ({"profiles": {"p": {"summary": "s", "vary": ["colour"]}}}, matrix.profiles, "vary has no 'colour'"),
        ({"profiles": {"p": {"summary": "s", "cells": [{"family": "gpt2"}]}}}, matrix.profiles, "has no 'gpt2'"),
        ({"families": {"defaults": {}, "f": {"klass": "X"}}}, matrix.families, "has no 'klass'"),
    ],
)
def test_an_unknown_key_is_an_error(files, content, ask, sentence):
    """With the nearest known one."""
    files(**content)
    with pytest.raises(MatrixError, match=sentence):
        ask()
