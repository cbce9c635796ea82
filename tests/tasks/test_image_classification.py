"""Folders and files of images. No image is opened: the worker does that."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from autotune.shared.errors import DatasetError
from autotune.space import Surroundings, baseline, compile_space, dynamic_baseline, load_space
from autotune.tasks import task_named, task_of_architectures
from autotune.tasks.base import Columns
from autotune.tasks.image_classification import _image_file

TASK = task_named("image-classification")


def images(folder, **sizes):
    """Files of these sizes, by their names without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / f"{name}.png").write_bytes(b"x" * size)


def short(rows, folder):
    base = str(folder)
    return [(row["image"].removeprefix(base + "/"), row["bytes"], row["label"]) for row in rows]


def test_a_folder_has_a_subfolder_for_each_label(tmp_path):
    images(tmp_path / "cat", a=1, b=2)
    images(tmp_path / "dog" / "deeper", c=3)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    found = TASK.load(str(tmp_path), None)
    assert short(found.rows, tmp_path) == [
        ("cat/a.png", 1, "cat"),
        ("cat/b.png", 2, "cat"),
        ("dog/deeper/c.png", 3, "dog"),
    ]
    assert found.reading == "image from the files, label from their folders"


def test_a_split_is_a_subfolder_of_the_folder(tmp_path):
    images(tmp_path / "train" / "cat", a=1)
    images(tmp_path / "test" / "cat", b=1)
    assert short(TASK.load(str(tmp_path), "test").rows, tmp_path) == [("test/cat/b.png", 1, "cat")]


@pytest.mark.parametrize("split", ["tset", "", ".", "..", "/", "test/cat", "a\0"])
def test_a_split_that_is_no_subfolder_is_refused_in_one_line(split, tmp_path):
    images(tmp_path / "train" / "cat", a=1)
    images(tmp_path / "test" / "cat", b=1)
    with pytest.raises(DatasetError, match="has no subfolder of that name; it has test, train"):
        TASK.load(str(tmp_path), split)


def test_without_a_split_the_subfolder_validation_is_read(tmp_path):
    images(tmp_path / "train" / "cat", a=1)
    images(tmp_path / "validation" / "cat", b=1)
    found = TASK.load(str(tmp_path), None)
    assert short(found.rows, tmp_path) == [("validation/cat/b.png", 1, "cat")]
    calibration = TASK.load(str(tmp_path / "train"), None)  # as --calibration names it
    assert short(calibration.rows, tmp_path) == [("train/cat/a.png", 1, "cat")]
    metadata = tmp_path / "validation" / "metadata.csv"
    metadata.write_text("file_name,label\ncat/b.png,dog\n")
    assert [row["label"] for row in TASK.load(str(tmp_path), None).rows] == ["dog"]


def test_a_subfolder_validation_of_images_alone_is_a_label(tmp_path):
    images(tmp_path / "validation", a=1)
    images(tmp_path / "training", b=1)
    found = TASK.load(str(tmp_path), None)
    assert {row["label"] for row in found.rows} == {"validation", "training"}


def test_a_name_that_is_no_text_is_refused_in_one_line(tmp_path):
    images(tmp_path / "cat", a=1)
    Path(os.fsdecode(bytes(tmp_path / "cat") + b"/\xff.png")).write_bytes(b"x")
    with pytest.raises(DatasetError, match="the name is no text in this locale") as caught:
        TASK.load(str(tmp_path), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.p\0g", "a.../etc", "a.PNG", None])
def test_only_known_suffixes_of_images_are_kept(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = _image_file({"bytes": b"abc", "path": name}, Path(), "row 1")
    assert found.read_bytes() == b"abc"
    assert found.suffix == (".png" if name == "a.PNG" else "")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metadata.csv", "file_name,label\na.png,cat\nb.png,1\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": "cat"}\n'),
        ("rows.jsonl", '{"image": "a.png", "label": "cat", "source": "web"}\n'),
        ("rows.csv", "label,path\ncat,a.png\n"),
    ],
)
def test_files_name_images_beside_them(file, text, tmp_path):
    images(tmp_path, a=4, b=5)
    (tmp_path / file).write_text(text)
    dataset = tmp_path if file.startswith("metadata") else tmp_path / file
    found = TASK.load(str(dataset), None)
    assert short(found.rows, tmp_path)[0] == ("a.png", 4, "cat")


def test_rows_are_written_as_they_are_loaded(tmp_path):
    images(tmp_path / "cat", a=1)
    images(tmp_path / "dog", b=2)
    task = TASK.for_model(("dog", "cat"))
    rows = task.with_model_labels(TASK.load(str(tmp_path), None).rows)
    assert [row["label"] for row in rows] == [1, 0]
    (tmp_path / "run").mkdir()
    task.write(rows, tmp_path / "run" / "data.jsonl")
    again = TASK.load(str(tmp_path / "run" / "data.jsonl"), None)
    assert task.with_model_labels(again.rows) == rows
    assert task.for_worker(rows) == {"image": [row["image"] for row in rows]}


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("d.jsonl", '{"image": "none.png", "label": 0}\n', "row 1: .*none.png: no such file"),
        ("d.jsonl", '{"image": 7, "label": 0}\n', "row 1: image must be the path of an image"),
        ("d.jsonl", '{"image": "a.png", "label": 0.5}\n', "row 1: label must be a name or a num"),
        ("d.csv", "picture,label\na.png,1\n", "none of the columns image, file_name"),
        ("d.csv", "image,kind\na.png,1\n", "none of the columns label"),
        ("d.csv", "image,label\na.png\n", "1 cells, but the header has 2"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(file, text, words, tmp_path):
    images(tmp_path, a=1)
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        TASK.load(str(tmp_path / file), None)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DatasetError, match="no images in subfolders named after labels"):
        TASK.load(str(tmp_path), None)


def test_labels_that_the_model_lacks_are_refused(tmp_path):
    images(tmp_path / "cow", a=1)
    rows = TASK.load(str(tmp_path), None).rows
    with pytest.raises(DatasetError, match=r"\(cow\) are not the model's \(dog, cat\)"):
        TASK.for_model(("dog", "cat")).with_model_labels(rows)


def test_columns_of_texts_do_not_apply(tmp_path):
    with pytest.raises(DatasetError, match="--text-column does not apply to images"):
        TASK.load(str(tmp_path), None, Columns(text="image"))


def test_images_of_a_dataset_id_are_kept_in_the_cache(tmp_path, monkeypatch):
    """The library gives the bytes of an image, or a path. Nothing is decoded here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images(tmp_path, a=3)
    given = [
        {"image": {"bytes": b"abc", "path": "x.jpg"}, "label": 1},
        {"image": {"bytes": None, "path": str(tmp_path / "a.png")}, "label": 0},
    ]

    class Loaded(list):
        features = types.MappingProxyType({"image": "an image", "label": None})

    fake = types.SimpleNamespace(
        load_dataset=lambda name, split: Loaded(given),
        disable_progress_bars=lambda: None,
        config=types.SimpleNamespace(HF_HUB_OFFLINE=False),
        Image=type("Image", (), {}),
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("autotune.tasks.files.hub_answers", lambda: True)
    first, second = TASK.load("owner/pictures", "test").rows
    assert first["image"].endswith(".jpg")
    assert Path(first["image"]).read_bytes() == b"abc"
    assert (second["image"], second["bytes"]) == (str(tmp_path / "a.png"), 3)


def test_the_task_is_known_by_the_models_architecture():
    assert task_of_architectures(["ViTForImageClassification"]) == TASK.name
    assert task_of_architectures(["ConvNextForImageClassification"]) == TASK.name


def test_inputs_without_a_width_have_no_knob_for_padding():
    from autotune.commands.search.settings import find_space
    from autotune.shared.errors import SpaceError

    where = Surroundings(
        cores=2,
        attentions=("sdpa", "eager"),
        modes={"default": {"eager": {"fp32": None}, "jit": {"fp32": None, "bf16": None}}},
        objective="throughput",
        axes=TASK.input_axes,
    )
    file = load_space(find_space(TASK.name))
    space = compile_space(file, where)
    absent = {"padding", "bucket_step", "batch_tokens"}
    assert not absent & {dimension.name for dimension in space.dimensions}
    assert baseline(where) == dynamic_baseline(where)
    assert baseline(where)["batch_size"] == 8
    assert {config["batch_size"] for config in space.whole(10**6)} == {1, 2, 4, 8, 16, 32}
    for options in ({"overrides": {"padding": ["longest"]}}, {"dropped": ["padding"]}):
        with pytest.raises(SpaceError, match="padding: the inputs of this task have no width"):
            compile_space(file, where, **options)


def test_a_dataset_is_needed(autotune, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["ViTForImageClassification"]})
    )
    done = autotune("search", "--model", tmp_path)
    assert done.returncode == 2
    assert "--dataset is needed: image-classification has no default dataset" in done.stderr
