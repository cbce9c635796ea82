"""Image classification: one label for an image.

Images come from a folder, in the layouts of Hugging Face's `imagefolder`, or from rows that name
files. The model's image processor resizes and normalises them in the worker, so the model's inputs
have no width: there is nothing to pad, and no knob for padding.

Metrics: accuracy, and F1 as in text classification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from autotune.shared.axes import BATCH, Axes
from autotune.shared.errors import DatasetError
from autotune.shared.paths import written
from autotune.store import cache
from autotune.tasks.base import ANY_COLUMNS, Columns, Dataset, Row
from autotune.tasks.files import is_local, read_rows
from autotune.tasks.labels import choose_column
from autotune.tasks.text_classification import Classification

IMAGE_COLUMNS = ("image", "file_name", "image_path", "path", "file", "img")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
METADATA = ("metadata.jsonl", "metadata.csv")


class ImageClassification(Classification):
    """A row has the path of an `image`, the file's size in `bytes`, and a `label`.

    The size is a part of the row so that a changed image makes another workload.
    """

    name: ClassVar[str] = "image-classification"
    head: ClassVar[str] = "AutoModelForImageClassification"
    work: ClassVar[str] = "image"
    input_axes: ClassVar[Axes] = (BATCH,)
    default_dataset: ClassVar[str] = ""
    default_split: ClassVar[str] = "validation"
    default_max_seq_length: ClassVar[int] = 1

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        """Return rows of {"image", "bytes", "label"}.

        `dataset` is a folder, a JSON, CSV or TSV file, or a dataset id. In a folder, each subfolder
        has the images of the label that it is named after, or metadata.jsonl or metadata.csv names
        the images and their labels. `split` is a subfolder of the folder; without it, that is the
        subfolder "validation" if it is laid out as such a folder. Paths in a file are relative to
        the file.
        """
        for name in ("text", "text_pair"):
            if getattr(columns, name) is not None:
                option = f"--{name.replace('_', '-')}-column"
                known = ", ".join(IMAGE_COLUMNS)
                raise DatasetError(f"{option} does not apply to images; name the column {known}")
        local = is_local(dataset)
        folder = written(dataset, "dataset", DatasetError) if local else Path()
        if local and folder.is_dir():
            folder = _split_of(folder, split, self.default_split)
            metadata = next((p for name in METADATA if (p := folder / name).is_file()), None)
            if metadata is None:
                rows = [_row(str(folder), *found) for found in enumerate(_in_folders(folder), 1)]
                used = {"image": "the files", "label": "their folders"}
                return Dataset(task=self, rows=rows, columns=used)
            dataset, folder = str(metadata), metadata
        raw = read_rows(dataset, split or self.default_split)
        image = choose_column(raw[0], None, IMAGE_COLUMNS, "one of these names", dataset)
        label = choose_column(raw[0], columns.label, LABEL_COLUMNS, "--label-column", dataset)
        beside = folder.parent if local else Path()
        rows = []
        for number, row in enumerate(raw, start=1):
            if isinstance(row.get(label), bool) or not isinstance(row.get(label), str | int):
                raise DatasetError(
                    f"{dataset}, row {number}: {label} must be a name or a number, got "
                    f"{str(row.get(label))[:40]!r}"
                )
            path = _image_file(row.get(image), beside, f"{dataset}, row {number}: {image}")
            rows.append(_row(dataset, number, (path, row[label])))
        unused = tuple(str(column) for column in raw[0] if column not in (image, label))
        return Dataset(
            task=self, rows=rows, columns={"image": image, "label": label}, unused=unused
        )

    def for_worker(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        return {"image": [row["image"] for row in rows]}

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write JSON lines of image (an absolute path) and label (its name)."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                line = {"image": row["image"], "label": self._written(row["label"])}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _split_of(folder: Path, split: str | None, default: str) -> Path:
    """Return the subfolder of a split, or `folder` itself if none is named and none is the default.

    A subfolder that only has images is a label, whatever its name. Raises DatasetError.
    """
    if split is None:
        below = folder / default
        return below if _is_laid_out(below) else folder
    one_name = str(Path(split)) == Path(split).name and split != ".." and "\0" not in split
    if not one_name or not (folder / split).is_dir():
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[:1] != ".")
        raise DatasetError(
            f"--dataset-split {split!a}: {folder} has no subfolder of that name"
            + (f"; it has {ascii(', '.join(found))[1:-1][:200]}" if found else "")
        )
    return folder / split


def _is_laid_out(folder: Path) -> bool:
    """Return whether a folder has subfolders, or a file that names images."""
    return folder.is_dir() and (
        any((folder / name).is_file() for name in METADATA)
        or any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir())
    )


def _in_folders(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each image of a folder's subfolders, and its label. Raises DatasetError for none."""
    found = [
        (path, below.name)
        for below in sorted(folder.iterdir())
        if below.is_dir() and not below.name.startswith(".")
        for path in sorted(below.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not found:
        raise DatasetError(
            f"{folder} has no images in subfolders named after labels, and no "
            f"{' or '.join(METADATA)}"
        )
    yield from found


def _row(dataset: str, number: int, found: tuple[Path, Any]) -> Row:
    path, label = found
    written(str(path.absolute()), f"{dataset}, row {number}:", DatasetError)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DatasetError(f"{dataset}, row {number}: {path} is no file")
    except FileNotFoundError:
        raise DatasetError(f"{dataset}, row {number}: {path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(
            f"{dataset}, row {number}: {str(path)[:200]} cannot be read: {reason}"
        ) from None
    return {"image": str(path.absolute()), "bytes": size, "label": label}


def _image_file(value: Any, beside: Path, where: str) -> Path:
    """Return the file of an image: a path, or what a dataset id gives, `{"path", "bytes"}`.

    Bytes are written to the user's cache, under the name of their digest. Raises DatasetError.
    """
    if isinstance(value, Mapping):
        content, name = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            suffix = Path(str(name or "")).suffix.lower()
            suffix = suffix if suffix in SUFFIXES else ""
            file = cache.folder() / "images" / f"{hashlib.sha256(content).hexdigest()}{suffix}"
            if not file.exists():
                try:
                    cache.replace(file, content)
                except OSError as error:
                    raise DatasetError(
                        f"{where}: {file} cannot be written: {error.strerror}"
                    ) from error
            return file
        value = name
    if not isinstance(value, str) or not value or "\0" in value:
        raise DatasetError(f"{where} must be the path of an image, got {str(value)[:40]!r}")
    return beside / value
