"""Texts are cut after their secrets are gone, and no text takes long."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.checks import MASK_LIMIT, VALUE_LIMIT, Check
from ftdoctor.redaction import Redactor, secrets_here
from ftdoctor.redaction.secrets import secrets

planted = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("planted.py"))))


@given(st.integers(0, VALUE_LIMIT + 100), st.sampled_from(sorted(planted.TOKENS)))
@settings(max_examples=200)
def test_a_value_is_cut_after_its_secrets_are_gone(place, kind):
    """Wherever in a long value the cut goes."""
    check = Check(scrub=Redactor(secrets({})).text)
    token = planted.TOKENS[kind]
    check.note("value", ("word " * 200)[:place] + " " + token + " " + "word " * 300)

    assert not any(token[i : i + 12] in check.records[0].measured for i in range(0, len(token) - 12, 4))


def test_a_long_label_mask_ends_before_a_secret_that_its_cut_goes_through():
    """Else half of it would stay, in tokens of which none is one."""
    found = []
    check = Check(found.append, scrub=Redactor(secrets({})).text)
    row = [" word"] * (MASK_LIMIT - 10) + [*planted.TOKENS["GitHub fine-grained"]] + [" word"] * 50
    check.label_mask("row", row, [True] * len(row))
    check.label_mask("row", [" word"] * 900, [True] * 900)

    assert [set(mask.tokens) for mask in found] == [{" word"}] * 2
    assert [len(mask.tokens) for mask in found] == [MASK_LIMIT - 100, MASK_LIMIT]


def test_output_is_cut_at_lines():
    """What stands on either side of what was left out is a whole line: half a secret would not be known."""
    from ftdoctor.runner.host import HEAD, TAIL, Capture

    token = planted.TOKENS["GitHub fine-grained"]
    for shift in range(0, 120, 7):
        capture = Capture()
        line = b"x" * shift + b" " + token.encode() + b"\n"
        capture.add(line * ((HEAD + TAIL) // len(line) + 50))
        shown = capture.text(secrets_here().text)

        assert "bytes left out" in shown
        assert not any(token[i : i + 16] in shown for i in range(0, len(token) - 16, 4))


def test_a_line_without_end_loses_its_cut_ends_only():
    """Of a megabyte in one line, head and tail stay."""
    from ftdoctor.runner.host import HEAD, LINE, TAIL, Capture

    capture = Capture()
    capture.add(b"a" * (1 << 20))

    assert len(capture.text()) > HEAD + TAIL - 2 * LINE - 10
    short = Capture()
    short.add(b"one\ntwo")
    assert short.text() == "one\ntwo"


@pytest.mark.parametrize(
    "text",
    ["x" * (1 << 20), "_" * (1 << 19), "a-" * (1 << 19), "password=" * (1 << 16), "://" * (1 << 18), "eyJ" * (1 << 18), "10." * (1 << 18), "a:b@" * (1 << 17),
     ("-----BEGIN " + "PRIVATE KEY-----") * (1 << 14), "-----END PRIVATE KEY-----" * (1 << 14), "wandb key " * (1 << 15), "fd00:" * (1 << 17), "\n" * (1 << 20),
     "a\n" * (1 << 18), "hf_" * (1 << 18), "A" * 40 + " " + "B" * (1 << 19) + "-----END PRIVATE KEY-----", "a.b.internal." * (1 << 15), "/home/" * (1 << 17),
     "\\n" * (1 << 19), "cookie: a=" * (1 << 15), "https://a:" * (1 << 15), "host.local " * (1 << 15), "AKIA" * (1 << 18), "'password': '" * (1 << 15),
     "machine a login b " * (1 << 14), "basic " * (1 << 16), "curl -u " * (1 << 15), "M" + "aaaaaa." * (1 << 16), "Authorization: " * (1 << 15), "eyJhbGciOiJ.eyJ" * (1 << 15), "SG." * (1 << 17), "sk-" * (1 << 18)],
    ids=lambda text: repr(text[:16]),
)  # fmt: skip
def test_a_megabyte_that_is_meant_to_be_slow_takes_limited_time(text, clean):
    """A quadratic pattern takes minutes here."""
    begun = time.process_time()
    clean.text(text)

    assert time.process_time() - begun < 10
