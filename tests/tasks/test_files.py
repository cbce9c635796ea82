"""Data files that are very long, truncated or unusual."""

from __future__ import annotations

import json

import pytest

from autotune.shared.errors import DatasetError
from autotune.tasks import task_named
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
        ("d.csv", b"text,label\na\n", "row 1: 1 cells, but the header has 2"),
        ("d.csv", b"text,label\na,1\nb,1,2\n", "row 2: 3 cells, but the header has 2"),
        ("d.csv", b"text,label,label\na,1,0\n", "two columns are named 'label'"),
        ("d.tsv", b"text\tlabel\na\n", "row 1: 1 cells, but the header has 2"),
        ("d.csv", b"\xff\xfe\x00", "is not UTF-8"),
        ("d.jsonl", b'{"n": 1}\n\n{"n": 2}\n{"n": \n', "line 4, column 7: Expecting value"),
        ("d.json", b'{\n"n": 1,\n}', "line 3"),
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


ODD = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
"""Characters at which str.splitlines splits, and that do not end a line of a file."""


def test_only_a_line_feed_ends_a_line(tmp_path):
    for ending in ("\n", "\r\n"):
        lines = [json.dumps({"text": ODD + str(n)}, ensure_ascii=False) for n in range(2)]
        (tmp_path / "d.jsonl").write_bytes((ending.join(lines) + ending).encode())
        rows = read_rows(str(tmp_path / "d.jsonl"), "validation")
        assert [row["text"] for row in rows] == [ODD + "0", ODD + "1"]
    (tmp_path / "d.csv").write_bytes(f'text,n\r\n"{ODD}",1\r\n'.encode())
    assert read_rows(str(tmp_path / "d.csv"), "validation") == [{"text": ODD, "n": "1"}]
    (tmp_path / "d.tsv").write_bytes(f"text\tn\r\n{ODD}\t1\r\n".encode())
    assert read_rows(str(tmp_path / "d.tsv"), "validation") == [{"text": ODD, "n": "1"}]


@pytest.mark.parametrize("task", ["qa", "text-classification", "token-classification"])
def test_written_rows_with_odd_characters_are_read_back(tmp_path, task):
    """launch.sh and verify read the rows that the search wrote."""
    rows = {
        "qa": {
            "id": "1",
            "title": ODD,
            "context": ODD,
            "question": ODD,
            "answers": {"text": [ODD], "answer_start": [0]},
        },
        "text-classification": {"text": ODD, "text_pair": ODD, "label": 1},
        "token-classification": {"tokens": [ODD, "b"], "tags": ["B-x", "O"]},
    }
    known = task_named(task).for_model(("O", "B-x"))
    known.write([rows[task]], tmp_path / "out.json")
    found = known.load(str(tmp_path / "out.json"), None)
    assert found.task.with_model_labels(found.rows) == [rows[task]]


def test_suffixes_are_read_in_any_case(tmp_path):
    (tmp_path / "d.CSV").write_text("text,label\na,1\n")
    (tmp_path / "d.JSONL").write_text('{"text": "a"}\n')
    (tmp_path / "d.TSV").write_text("text\tlabel\na\t1\n")
    assert read_rows(str(tmp_path / "d.CSV"), "v") == [{"text": "a", "label": "1"}]
    assert read_rows(str(tmp_path / "d.JSONL"), "v") == [{"text": "a"}]
    assert read_rows(str(tmp_path / "d.TSV"), "v") == [{"text": "a", "label": "1"}]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"a ""b"" c"', 'a "b" c'),
        ('"a" and "b"', '"a" and "b"'),
        ('" a', '" a'),
        ('""', ""),
        ('"', '"'),
    ],
)
def test_a_quotation_mark_in_a_tsv_file_is_a_character(tmp_path, cell, text):
    (tmp_path / "d.tsv").write_text(f"text\tlabel\n{cell}\t1\n")
    assert read_rows(str(tmp_path / "d.tsv"), "v") == [{"text": text, "label": "1"}]


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, whose data sets are those of `load`."""
    datasets = pytest.importorskip("datasets")

    def serve(load):
        monkeypatch.setattr("autotune.tasks.files.hub_answers", lambda: True)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return datasets

    return serve


def test_a_dataset_id_that_needs_a_script_says_what_to_pass(hub):
    def refuses(name, split):
        raise RuntimeError("Dataset scripts are no longer supported, but found conll2003.py")

    hub(refuses)
    with pytest.raises(DatasetError) as caught:
        read_rows("someone/conll2003", "validation")
    assert "Dataset scripts are no longer supported" in str(caught.value)
    assert "pass --dataset FILE" in str(caught.value)


def test_tags_of_a_dataset_id_are_read_by_their_names(hub):
    """As in the default data set of token classification, whose tags are numbers with names."""
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features(
        tokens=datasets.Sequence(datasets.Value("string")),
        ner_tags=datasets.Sequence(datasets.ClassLabel(names=names)),
    )
    row = {"tokens": ["Ada", "Lovelace", "wrote"], "ner_tags": [1, 2, 0]}
    asked = []

    def load(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list([row], features=features)

    hub(load)
    task = task_named("token-classification").for_model(["I-PER", "O", "B-PER"])
    found = task.load(task.default_dataset, None)
    assert asked == [("tomaarsen/conll2003", "validation")]
    assert found.task.with_model_labels(found.rows) == [
        {"tokens": row["tokens"], "tags": ["B-PER", "I-PER", "O"]}
    ]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is a folder; pass one file"):
        read_rows(str(tmp_path), "validation")


@pytest.mark.parametrize("name", ["/" + "x" * 300 + ".csv", "~no-such-user/d.csv", "a\0b.csv"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(DatasetError, match=r"no such file|cannot be read|no such home folder"):
        read_rows(name, "validation")
