"""Reading the arrays that workers write: the orchestrator's side of features and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.store.wire import WireError

FEATURES_FILE = "features.npz"


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of an .npz file; nothing in it is unpickled. Raises WireError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise whatever damage leads them to
        raise WireError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFeatures:
    """Where each feature's tokens came from. Ragged: tokens of all features end to end."""

    lengths: npt.NDArray[np.int32]  # (features,)
    example: npt.NDArray[np.int32]  # (features,): row of the dataset
    offsets: npt.NDArray[np.int32] | None  # (tokens, 2): characters, (-1, -1) for no context
    words: npt.NDArray[np.int32] | None = None  # (tokens,): word of the row, -1 for none

    @classmethod
    def load(cls, folder: Path) -> EncodedFeatures:
        """Raises WireError where the file is not what a worker writes."""
        arrays = read_arrays(folder / FEATURES_FILE)
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
        """(features + 1,): feature i has tokens starts[i]:starts[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])
