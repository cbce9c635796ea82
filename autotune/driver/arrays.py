"""Read the arrays that workers write: encoded features and outputs."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.shared.axes import WIDTH, declared_arrays
from autotune.store.wire import WireError

FEATURES_FILE, META_FILE = "features.npz", "features.json"


def read_arrays(path: Path, names: Container[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name: every one, or those of `names` that it has.

    Refuses pickled objects. Raises WireError.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            wanted = [name for name in archive.files if names is None or name in names]
            return {name: archive[name] for name in wanted}
    except Exception as error:  # a damaged file makes numpy and zipfile raise errors of any type
        raise WireError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


def read_padding(folder: Path) -> dict[str, Any] | None:
    """The padding of the features in `folder`, which the model was found to need.

    `side` is `right` or `left`, `token` the value that pads the first input. `given` says whether
    the model got that value because it has none of its own. None for inputs without a width. Raises
    WireError.
    """
    try:
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        arrays = declared_arrays(meta)
        padded = [array for array in arrays if WIDTH in array.axes and array.real is None]
        if not padded:
            return None
        return {
            "side": str(meta["padding_side"]),
            "token": int(padded[0].pad),
            "given": meta.get("own_pad_token") is not None,
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"{META_FILE} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFeatures:
    """The encoded features of a workload, and where their tokens are in the dataset.

    Arrays of tokens hold the tokens of all features, one feature after the other.
    """

    lengths: npt.NDArray[np.int32]  # (features,): tokens of each feature
    example: npt.NDArray[np.int32]  # (features,): row of the dataset
    # (tokens, 2): start and end (exclusive) of the token's characters in the context;
    # (-1, -1) for a token outside the context
    offsets: npt.NDArray[np.int32] | None
    words: npt.NDArray[np.int32] | None = None  # (tokens,): word of the row, -1 for none

    @classmethod
    def load(cls, folder: Path) -> EncodedFeatures:
        """Read the features that a worker wrote to `folder`. Raises WireError."""
        arrays = read_arrays(folder / FEATURES_FILE, {field.name for field in fields(cls)})
        try:
            loaded = cls(
                lengths=arrays["lengths"],
                example=arrays["example"],
                offsets=arrays.get("offsets"),
                words=arrays.get("words"),
            )
        except KeyError as error:
            raise WireError(f"{FEATURES_FILE} lacks {error}") from error
        if loaded.example.shape != loaded.lengths.shape:
            raise WireError("features.npz: lengths and example differ in shape")
        if loaded.offsets is not None and loaded.offsets.shape != (loaded.tokens, 2):
            raise WireError("features.npz: offsets do not match the tokens")
        if loaded.words is not None and loaded.words.shape != (loaded.tokens,):
            raise WireError("features.npz: words do not match the tokens")
        return loaded

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Shape (features + 1,): the tokens of feature i are starts[i] to starts[i + 1] - 1."""
        return np.concatenate([[0], np.cumsum(self.lengths)])
