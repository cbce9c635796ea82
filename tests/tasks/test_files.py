"""Data files that are very long, truncated or unusual."""

from __future__ import annotations

import json

import pytest

from autotune.shared.errors import DatasetError
from autotune.tasks.files import read_rows

MEGABYTE = "word " * 210_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_row_of_one_megabyte_is_read(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    rows = {".jsonl": json.dumps({"text": MEGABYTE}) + "\n", ".csv": f'text\n"{MEGABYTE}"\n'}
    path.write_text(rows[suffix])
    assert read_rows(str(path), "validation") == [{"text": MEGABYTE}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", b'text,label\n"never closed,1\n', "is not CSV: unexpected end of data"),
        ("d.csv", b"text,label\na\n", "row 1: the number of cells differs from the header"),
        (
            "d.csv",
            b"text,label\na,1\nb,1,2\n",
            "row 2: the number of cells differs from the header",
        ),
        ("d.csv", b"\xff\xfe\x00", "cannot be read"),
        ("d.json", b'{"text": "\\ud800"}', r"'\\ud800' is only half of a character"),
        ("d.jsonl", b'{"n": 1}\n{"n": ' + b"9" * 5000 + b"}\n", "neither JSON nor JSON lines"),
        ("d.json", b"[" * 100_000, "nested too deeply"),
        ("d.jsonl", b'{"n": 1}\n' + b"[" * 100_000, "nested too deeply"),
        ("d.json", b" \n", "is empty"),
    ],
)
def test_an_unreadable_file_is_refused_with_the_reason(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        read_rows(str(tmp_path / name), "validation")


def test_unusual_characters_are_read(tmp_path):
    text = "right-to-left \u202e, nothing \u0000, bell \u0007, \U0001f600"
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"text": text}]))
    assert read_rows(str(path), "validation") == [{"text": text}]
