"""What the environment probes say of a user's folder and configuration."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.stack


def test_versions_are_held_against_what_the_project_expects(ftdoctor, tmp_path):
    """`expect` in the configuration, in one finding that names both."""
    (tmp_path / "ftdoctor.toml").write_text('expect = { torch = "<1", transformers = ">=1", no-such-library = ">1" }\n')
    done = ftdoctor("check", "--probe", "stack-versions", "--quiet", light=True)

    assert done.returncode == 1
    assert "torch" in done.stdout
    assert "<1" in done.stdout
    assert "no-such-library" in done.stdout
    assert "transformers" not in done.stdout.split("cure")[0]


def test_a_stray_file_in_the_users_folder_is_found(ftdoctor, tmp_path):
    """Cells work in folders of their own, but ask about the one in which the user is."""
    (tmp_path / "datasets.py").write_text("")
    done = ftdoctor("check", "--probe", "stack-origin", "--quiet", light=True)

    assert done.returncode == 1
    assert "datasets" in done.stdout
