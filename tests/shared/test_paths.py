"""Paths that cannot be known, and words that bash reads back."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.shared.errors import DatasetError, InputError
from autotune.shared.paths import home_folder, kind_of, shell_word, written

NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.sampled_from("\udcff\udc80\x1b\u202e'\"$`\\!\n~ é"),
    min_size=1,
    max_size=12,
)


def test_what_is_at_a_path(tmp_path):
    (tmp_path / "file").write_text("")
    assert kind_of(tmp_path, "x") == "folder"
    assert kind_of(tmp_path / "file", "x") == "file"
    assert kind_of(tmp_path / "none", "x") is None
    assert kind_of(tmp_path / "file" / "below", "x") is None


def test_a_path_that_cannot_be_known_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset .*a cannot be read: File name too long"):
        kind_of(tmp_path / ("a" * 300), "dataset", DatasetError)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=r"--model .*loop cannot be read: Too many levels"):
        kind_of(tmp_path / "loop", "--model")


def test_home_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert written("~/x", "--model") == tmp_path / "x"
    assert home_folder() == tmp_path
    with pytest.raises(InputError, match="--model ~nouser/x: there is no such home folder"):
        written("~nouser/x", "--model")


def test_a_name_that_is_no_text():
    with pytest.raises(InputError, match=r"'m\\udcff': the name is no text in this locale"):
        written("m\udcff", "--model")


@given(NAMES, st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_bash_reads_a_shell_word_back(name, encoding):
    word = shell_word(name, encoding)
    assert word.encode(encoding)
    assert word.isprintable()
    found = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert found.stdout == os.fsencode(name)
