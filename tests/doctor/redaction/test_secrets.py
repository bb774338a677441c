"""Secrets of many kinds are found by their looks, by what stands around them, and by their value."""

from __future__ import annotations

import base64
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftdoctor_matrix as matrix
from ftdoctor.errors import MatrixError, UsageError
from ftdoctor.redaction import here

planted = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("planted.py"))))


@pytest.mark.parametrize("kind", [*planted.TOKENS, *planted.WORDS])
def test_a_token_is_known_by_its_looks(kind, clean):
    """Alone, in a sentence, in quotes, in colour, escaped."""
    token = {**planted.TOKENS, **planted.WORDS}[kind]

    for text in (
        token,
        f"the token {token}, which",
        f"'{token}'",
        f"\x1b[31m{token}\x1b[0m",
        f"line\\n{token}\\n",
        f"x={token}&y",
    ):
        assert token not in clean.text(text), text
        assert token[4:-4] not in clean.text(text), text
        assert "<redacted: " in clean.text(text)


@pytest.mark.parametrize("kind", planted.TOKENS)
def test_tokens_without_a_space_between_them_all_go(kind, clean):
    """The second one may have lost its beginning to the first."""
    for other in planted.TOKENS.values():
        shown = clean.text(planted.TOKENS[kind] + other)

        assert other[8:20] not in shown, shown


@given(st.lists(st.sampled_from([*planted.TOKENS.values(), *planted.WORDS.values(), *planted.SENTENCES]), max_size=5))
@settings(max_examples=300, deadline=None)
def test_twice_is_as_once_whatever_stands_without_a_space(parts):
    """A secret that another one hid behind is found the first time."""
    redactor = here(planted.ADA)
    shown = redactor.text("".join(parts))

    assert redactor.text(shown) == shown


@pytest.mark.parametrize("kind", planted.AROUND)
def test_a_secret_is_known_by_what_stands_around_it(kind, clean):
    """And what stands around it stays."""
    text, secret = planted.AROUND[kind]
    shown = clean.text(text.format(secret))

    assert secret not in shown
    assert secret[2:-2] not in shown
    assert shown.startswith(text.format("|").partition("|")[0][:5])


@given(st.sampled_from(list(planted.TOKENS)), st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=300)
def test_a_token_goes_whatever_surrounds_it(kind, before, after):
    """Letters that touch it included; and redacting again changes nothing."""
    redactor = here(planted.NOWHERE)
    token = planted.TOKENS[kind]
    shown = redactor.text(before + token + after)

    assert token not in shown
    assert redactor.text(shown) == shown


@pytest.mark.parametrize("kind", list(planted.TOKENS))
@pytest.mark.parametrize("width", [20, 31])
def test_a_token_that_a_narrow_box_cuts_is_found(kind, width, clean):
    """As a terminal or a box of rich wraps it."""
    token = planted.TOKENS[kind]
    if len(token) > 6 * width:
        return
    pieces = re.findall(f".{{1,{width}}}", token)
    for text in (
        "\n".join(pieces),
        "".join(f"│ {p} │\n" for p in pieces),
        "\n    ".join(["token:", *pieces]),
        "\\n".join(pieces),
    ):
        shown = clean.text(text)
        assert not any(piece in shown for piece in pieces if len(piece) > 4), shown


@pytest.mark.parametrize("cut", ["\x1b[1;36m", "\x1b[0m\x1b[31m", "\u200b", "\xad"])
@pytest.mark.parametrize("kind", planted.TOKENS)
def test_a_token_with_something_unseen_in_it_is_found(kind, cut, clean):
    """Such as a colour that a highlighter puts into it."""
    token = planted.TOKENS[kind]
    for place in (3, len(token) // 2, len(token) - 6):
        shown = clean.text(f"got {token[:place]}{cut}{token[place:]}, which")

        assert token[6 : len(token) // 2] not in shown, shown
        assert shown.startswith("got ")
        assert shown.endswith(", which")


def test_what_is_compared_is_no_assignment(clean):
    """The version of a distribution, and a literal in source code."""
    for text in ("detect-secrets==1.5.0", "api-token==2.0.1rc1", 'if token == "a1b2c3d4e5f6g7h8":'):
        assert clean.text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "keys = ['password', 'username', 'private_repo_2']",
        "('token', 'lora_embedding_A') not in ['api_key', 'secret', 'base64']",
        "dict(pad_token='<pad>', eos_token=\"<|im_end|>\", mask_token='[MASK1]')",
        'storage_key = "cond_frame_outputs" if is_conditioning_frame else "non_cond_frame_outputs"',
        "{'name': 'pad_token', 'value': '<pad>'} {'name': 'hidden_size', 'value': 4096}",
        "<token>user</token> <secret></secret> <mask_token>x1</mask_token>",
        "the key is model_layers_0_self_attn_q_proj_weight, the token is 128009",
        "mysql -u root -p runs; docker run -p 8080:80 image; redis-cli ping",
        "set -x DEBUG 1; ENV CUDA_VERSION 12.8.1; ENV MAX_TOKENS 4096",
    ],
)
def test_what_only_sounds_like_a_secret_stays(text, clean):
    """Names of fields, special tokens, keys of states, ports."""
    assert clean.text(text) == text


def test_a_token_at_the_end_of_a_line_leaves_the_next_one_alone(clean):
    """Where it does not look like more of the token."""
    for kind, token in planted.TOKENS.items():
        assert clean.text(f"{token}\nTraceback of it").endswith(">\nTraceback of it"), kind


FORMS = {
    "as it is": lambda v: v,
    "in a URL": lambda v: quote(v, safe=""),
    "in JSON": lambda v: json.dumps(v)[1:-1],
    "in a repr": lambda v: repr(v)[1:-1],
    "in base64": lambda v: base64.b64encode(v.encode()).decode(),
    "in base64 with a user": lambda v: base64.b64encode(b"user:" + v.encode() + b"@host").decode(),
    "over two lines": lambda v: f"{v[:9]}\n   {v[9:]}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", ["tr0ub4dor&3/élan+x", 'quote"back\\slash9', "plain0value0of0letters"])
def test_a_secret_of_the_environment_is_found_in_every_form(form, value):
    """Wherever it occurs, whatever it looks like."""
    redactor = here({"HOME": "/x/y", "ACME_SECRET": value})
    shown = redactor.text(f"before {FORMS[form](value)} after")

    assert "<redacted: value of ACME_SECRET>" in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "aa11bb22cc33", True), ("MY_API_KEY", "aa11bb22cc33", True), ("DB_PASS", "aa11bb22", True),
        ("SERVICE_AUTH", "aa11bb22cc33", True), ("GIT_PAT", "aa11bb22cc33", True), ("ACME_PASSWORD", "correcthorsebattery", True),
        ("ACME_PASSWORD", "$ecr3t(9!x", True),
        ("ACME_PASSWORD", "s3cret.pass", True),
        ("TOKENIZERS_PARALLELISM", "aa11bb22cc33", False), ("HF_TOKEN", "true", False), ("HF_TOKEN", "1234567890", False),
        ("SSH_AUTH_SOCK", "/run/aa11bb22cc33", False), ("KEY_FILE", "/etc/ssl/aa11.pem", False), ("HF_TOKEN", "disabled", False),
        ("MAX_TOKENS", "aa11bb22cc33", False), ("EOS_TOKEN", "aa11bb22cc33", False), ("PATH", "aa11bb22cc33", False),
        ("AUTHOR", "aa11bb22cc33", False), ("GREETING_KEY", "hello", False), ("MY_PASSWORD", "password", False),
    ],
)  # fmt: skip
def test_variables_are_secret_by_name_and_value(name, value, secret):
    """A number, a word or a path is none, and nor is what only sounds like it."""
    assert (value not in here({"HOME": "/x/y", name: value}).text(f"it says {value} here")) is secret


@pytest.mark.parametrize("value", ["ACME_SECRET_1", "value of ACME_SECRET_1", "redacted: value", "secret value"])
def test_a_secret_that_stands_in_what_is_put_for_it_is_taken_out_once(value):
    """As where a variable is set to its own name."""
    redactor = here({"HOME": "/x/y", "ACME_SECRET_1": value})
    shown = redactor.text(f"before {value} after, password='aa11bb22cc'")

    assert shown == "before <redacted: value of ACME_SECRET_1> after, password='<redacted: password>'"
    assert redactor.text(shown) == shown


def test_a_password_in_an_address_of_the_environment_is_a_secret_too():
    """Decoded and as it stands there."""
    redactor = here({"HOME": "/x/y", "DATABASE_URL": "postgres://ada:s3same" + "%2Fopen@db.example.com/x"})

    assert redactor.text("password s3same/open or s3same%2Fopen").count("<redacted: ") == 2


def test_own_patterns_are_taken_out_too():
    """And one that is no regular expression is refused by name."""
    assert (
        here(planted.NOWHERE, [r"Project \w+"]).text("about Project Zebra, now") == "about <redacted: own pattern>, now"
    )
    with pytest.raises(UsageError, match=r"'\(' of what is to be redacted"):
        here(planted.NOWHERE, ["("])


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
@pytest.mark.parametrize("part", ["whole", "without end", "without begin", "escaped", "middle cut"])
def test_private_keys_go_also_where_they_are_cut_off(kind, part, clean):
    """No line of them is left, and what follows stays."""
    key = planted.pem(kind)
    lines = key.splitlines()
    text = {
        "whole": f"before\n{key}\nafter it",
        "without end": "before\n" + "\n".join(lines[:5]) + "\n",
        "without begin": "\n".join(lines[4:]) + "\nafter it",
        "escaped": json.dumps({"key": key, "x": "after it"}),
        "middle cut": key[:200] + "..." + key[-200:] + "\nafter it",
    }[part]
    shown = clean.text(text)

    assert not any(line[:30] in shown or line[-30:] in shown for line in lines[1:-1])
    assert "PRIVATE KEY" not in shown
    assert ("after it" in shown) is ("after it" in text)


def test_a_table_that_nobody_reads_is_refused(monkeypatch):
    """By its name, with those that there are."""
    read = matrix.read
    monkeypatch.setattr(matrix, "read", lambda name: {**read(name), "secrets": []})
    matrix.private.cache_clear()
    try:
        with pytest.raises(MatrixError, match=r"redaction\.toml has no 'secrets'"):
            matrix.private()
    finally:
        matrix.private.cache_clear()


def test_the_patterns_are_data_that_reads():
    """Each compiles, names its kind, and has keywords in small letters that its own pattern can match."""
    for entry in matrix.private().secrets:
        re.compile(entry.pattern, re.ASCII)
        assert entry.keywords
        assert all(keyword == keyword.lower() for keyword in entry.keywords)


@given(st.text())
@settings(max_examples=200)
def test_any_text_is_redacted_twice_as_once(text):
    """And none is too strange."""
    redactor = here(planted.ADA)

    assert redactor.text(redactor.text(text)) == redactor.text(text)


def test_a_password_in_another_script_is_one_too(clean):
    """Letters are letters."""
    assert clean.text("password='пароль-и-слово'") == "password='<redacted: password>'"


def test_a_private_key_of_the_environment_hides_no_other_one():
    """Its first and last line are those of every key."""
    redactor = here({"HOME": "/x/y", "SSH_PRIVATE_KEY": planted.pem("OPENSSH ")})
    other = planted.pem("OPENSSH ").replace("MII", "MIK")

    assert redactor.text(f"a\n{other}\nb") == "a\n<redacted: private key>\nb"
    assert planted.pem("OPENSSH ").splitlines()[3] not in redactor.text(
        f"line {planted.pem('OPENSSH ').splitlines()[3]}"
    )
