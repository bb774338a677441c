"""Probes are found by listing packs; a pack that breaks the rules is refused by name."""

from __future__ import annotations

import pytest

from ftdoctor import registry
from ftdoctor.errors import ProbeError, UsageError
from ftdoctor.probe import probe

PROBE = "from ftdoctor.probe import probe\n@probe(area='loading')\ndef {name}(bench, check): ...\n"


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Write a pack of these files and return its name."""

    def write(**sources):
        folder = tmp_path / "some_pack"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
        return "some_pack"

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    import sys

    for name in [m for m in sys.modules if m.startswith("some_pack")]:
        del sys.modules[name]


def test_a_file_is_a_probe_of_the_same_name(pack):
    """Files whose name begins with an underscore are helpers."""
    found = registry.read_pack(pack(one_promise=PROBE.format(name="one_promise"), _helper="x = 1"))

    assert [p.name for p in found] == ["one-promise"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (PROBE.format(name="other"), "must hold one probe, a function named one_promise; it holds other"),
        ("x = 1", "it holds none"),
        (PROBE.format(name="one_promise") + PROBE.format(name="two"), "it holds one-promise, two"),
    ],
)
def test_a_file_that_is_not_one_probe_is_refused(pack, source, sentence):
    """Naming the file and what it holds."""
    with pytest.raises(ProbeError, match=sentence):
        registry.read_pack(pack(one_promise=source))


def test_a_pack_that_cannot_be_imported_is_named(pack):
    """With the error that it raised."""
    with pytest.raises(ProbeError, match=r"some_pack cannot be imported \(ZeroDivisionError"):
        registry.read_pack(pack(broken="1 / 0"))


def test_an_area_stands_for_its_probes():
    """And names may be mixed."""
    chosen = registry.choose(["environment", "tokenizer-reload"])

    assert {p.area for p in chosen.values()} == {"environment", "loading"}
    with pytest.raises(UsageError, match="did you mean 'tokenizer-reload'"):
        registry.choose(["tokeniser-reload"])


def test_a_probe_that_is_declared_wrongly_is_refused():
    """Area and axes."""
    with pytest.raises(ProbeError, match="no area 'cooking'"):
        probe(area="cooking")
    with pytest.raises(ProbeError, match="names axis 'family'"):
        probe(area="loading", only={"family": ("llama",)})


def test_two_faults_of_one_name_are_refused():
    """A fault is found by its name."""

    @probe(area="loading")
    def promise(bench, check): ...

    promise.fault("x", catches=("a",))(lambda patch: None)
    with pytest.raises(ProbeError, match="two faults named 'x'"):
        promise.fault("x", catches=("a",))(lambda patch: None)
