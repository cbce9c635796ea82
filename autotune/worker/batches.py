"""Encoded rows (features), and the padded batches made from them. numpy only.

What an array holds is declared (`autotune.shared.axes`). Nothing here knows what it means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.shared.axes import WIDTH, Axes, InputArray, declared_arrays, has_width

Array = npt.NDArray[Any]
Shape = tuple[int, int]
"""Rows and width of a batch. The width is 1 for inputs without one."""

FEATURES_FILE = "features.npz"
META_FILE = "features.json"


class Batch(Mapping[str, Array]):
    """Model inputs by name, each with the axes that its `InputArray` declares.

    `real`, shape (rows, width), is true where a row has values of its own, and false in padding.
    """

    __slots__ = ("_arrays", "real")

    def __init__(self, arrays: Mapping[str, Array], real: npt.NDArray[np.bool_]) -> None:
        self._arrays, self.real = dict(arrays), real

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def shape(self) -> Shape:
        rows, width = self.real.shape
        return rows, width

    @property
    def size(self) -> int:
        """Rows times width: the places of the batch, padding included."""
        return self.real.size

    def without_padding(self, output: Array, axes: Axes) -> Array:
        """An output of this batch, its padding left out: shape (places, ...) if it has a width."""
        return width_second(output, axes)[self.real] if WIDTH in axes else output


def width_second(array: Array, axes: Axes) -> Array:
    """`array` with its WIDTH behind its rows: shape (rows, width, ...)."""
    place = axes.index(WIDTH)
    return array if place == 1 else np.moveaxis(array, place, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The dataset as model inputs, encoded once. A feature is one row of model inputs.

    `arrays` declares what the model takes, in the order of its `forward`. `values` holds an array
    for each of them, except for masks:

    - (places, ...) if it has a WIDTH. Features of different lengths lie end to end: feature i is
      `values[starts[i]:starts[i + 1]]`, where `starts` is the running sum of `lengths`. The other
      axes follow.
    - (features, ...) if it has none.

    `lengths` are 1 if no array has a WIDTH. `padding_side` is `left` or `right`. `max_seq_length`
    is the widest that a batch may be. `examples` is the number of dataset rows; a long row may be
    split into several features. `own_pad_token` replaces the model's `config.pad_token_id` if that
    is no token. `work` is as in `ModelFacts`.
    """

    arrays: tuple[InputArray, ...]
    values: Mapping[str, Array]
    lengths: Array  # (features,)
    padding_side: str
    max_seq_length: int
    examples: int
    own_pad_token: int | None = None
    work: tuple[float, float, float] | None = None

    @classmethod
    def load(cls, folder: str) -> Features:
        """Read the files that `encode` wrote to `folder`."""
        with open(os.path.join(folder, META_FILE), encoding="utf-8") as file:
            meta = json.load(file)
        arrays = declared_arrays(meta)
        with np.load(os.path.join(folder, FEATURES_FILE), allow_pickle=False) as stored:
            return cls(
                arrays=arrays,
                values={
                    array.name: stored[array.name].astype(array.dtype, copy=False)
                    for array in arrays
                    if array.real is None
                },
                lengths=stored["lengths"].astype(np.int64),
                padding_side=meta["padding_side"],
                max_seq_length=meta["max_seq_length"],
                examples=meta["examples"],
                own_pad_token=meta.get("own_pad_token"),
                work=tuple(meta["work"]) if meta.get("work") else None,
            )

    def write_meta(self, folder: str) -> None:
        """Write META_FILE to `folder`: all but the values, which `encode` wrote before."""
        meta = {
            "arrays": [array.written() for array in self.arrays],
            "padding_side": self.padding_side,
            "max_seq_length": self.max_seq_length,
            "examples": self.examples,
            "own_pad_token": self.own_pad_token,
            "work": self.work,
        }
        with open(os.path.join(folder, META_FILE), "w", encoding="utf-8") as file:
            json.dump(meta, file)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """The names of what the model takes, in the order of its `forward`."""
        return tuple(array.name for array in self.arrays)

    @property
    def has_width(self) -> bool:
        return has_width(self.arrays)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Shape (features + 1,): the places of feature i are starts[i] to starts[i + 1] - 1."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def batch(self, rows: Sequence[int], width: int) -> Batch:
        """The features `rows` as one batch, padded to `width`."""
        chosen = np.asarray(rows, np.int64)
        lengths, columns = self.lengths[chosen, None], np.arange(width)
        real = columns < lengths if self.padding_side == "right" else columns >= width - lengths
        starts = self.starts
        places = [np.arange(starts[row], starts[row + 1]) for row in rows]
        where = np.concatenate(places) if self.has_width and places else np.empty(0, np.int64)
        batch = {}
        for array in self.arrays:
            if WIDTH not in array.axes:
                batch[array.name] = self.values[array.name][chosen]
                continue
            found = array.real if array.real is not None else self.values[array.name][where]
            others = np.shape(found)[1:]
            padded = np.full((len(rows), width, *others), array.pad, array.dtype)
            padded[real] = found
            place = array.axes.index(WIDTH)
            batch[array.name] = (
                padded if place == 1 else np.ascontiguousarray(np.moveaxis(padded, 1, place))
            )
        return Batch(batch, real)

    def unpad(self, output: Array, rows: Sequence[int], axes: Axes) -> list[Array]:
        """What an output of a batch of `rows` says of each row, padding left out.

        Each has shape (length, ...) for an output with a WIDTH, and otherwise (...).
        """
        if WIDTH not in axes:
            return list(output)
        output = width_second(output, axes)
        lengths = [int(self.lengths[row]) for row in rows]
        if self.padding_side == "right":
            return [output[i, :length] for i, length in enumerate(lengths)]
        return [output[i, -length:] for i, length in enumerate(lengths)]


def sample_batches(features: Features) -> list[Batch]:
    """Five batches: the example to trace with, and a shorter, a longer, an odd, a full-width one.

    They do not depend on the point to measure. Points that share a session run on one prepared
    engine, and launch.sh must prepare the same engine.
    """
    order = np.argsort(features.lengths, kind="stable")
    middle = len(order) // 2

    def rows_at(*positions: int) -> list[int]:
        return [int(order[position % len(order)]) for position in positions]

    def batch_of(rows: list[int]) -> Batch:
        return features.batch(rows, max(int(features.lengths[row]) for row in rows))

    return [
        batch_of(rows_at(middle - 1, middle, middle + 1, middle + 2)),
        batch_of(rows_at(0)),
        batch_of(rows_at(-1, -2, -3)),
        batch_of(rows_at(0, middle, -1, middle // 2, 1)),
        features.batch(rows_at(middle), features.max_seq_length),
    ]


def calibration_batches(features: Features) -> list[Batch]:
    """Each calibration row as a batch of its own, without padding."""
    return [features.batch([row], int(length)) for row, length in enumerate(features.lengths)]
