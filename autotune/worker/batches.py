"""Encoded rows (features), and the padded batches made from them. numpy only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]
Batch = dict[str, Array]
"""Model inputs by name, each int64 of shape (batch, width)."""
Shape = tuple[int, int]
"""Rows and width (tokens) of a batch."""

FEATURES_FILE = "features.npz"
META_FILE = "features.json"
MASK = "attention_mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The dataset as token ids, encoded once. A feature is one row of model inputs.

    `inputs` holds one flat int64 array of shape (tokens,) for each model input, in which features
    of different lengths lie end to end. Feature i is `flat[starts[i]:starts[i + 1]]`, where
    `starts` is the running sum of `lengths`. `pad` is the padding value of each input.
    `examples` is the number of dataset rows; a long row may be split into several features.

    `model_inputs` names what the model takes, in the order of its `forward`. Every batch has the
    mask, because it says which tokens are real; a model may take none. `own_pad_token` replaces
    the model's `config.pad_token_id` if that is no token. `work` is as in `ModelFacts`.
    """

    inputs: Mapping[str, Array]
    lengths: Array  # (features,)
    pad: Mapping[str, int]
    padding_side: str
    max_seq_length: int
    examples: int
    model_inputs: tuple[str, ...] = ()
    own_pad_token: int | None = None
    work: tuple[float, float, float] | None = None

    @classmethod
    def load(cls, folder: str) -> Features:
        """Read the files that `encode` wrote to `folder`."""
        with open(os.path.join(folder, META_FILE), encoding="utf-8") as file:
            meta = json.load(file)
        with np.load(os.path.join(folder, FEATURES_FILE), allow_pickle=False) as arrays:
            return cls(
                inputs={name: arrays[name].astype(np.int64) for name in meta["inputs"]},
                lengths=arrays["lengths"].astype(np.int64),
                pad=meta["pad"],
                padding_side=meta["padding_side"],
                max_seq_length=meta["max_seq_length"],
                examples=meta["examples"],
                # Runs of older versions: every model took the mask, after the other inputs.
                model_inputs=tuple(meta.get("model_inputs", (*meta["inputs"], MASK))),
                own_pad_token=meta.get("own_pad_token"),
                work=tuple(meta["work"]) if meta.get("work") else None,
            )

    def meta(self) -> dict[str, Any]:
        """What META_FILE holds."""
        return {
            "inputs": list(self.inputs),
            "pad": dict(self.pad),
            "padding_side": self.padding_side,
            "max_seq_length": self.max_seq_length,
            "examples": self.examples,
            "model_inputs": list(self.model_inputs),
            "own_pad_token": self.own_pad_token,
            "work": self.work,
        }

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Sequence[int], width: int) -> Batch:
        """The features `rows` as one batch with its attention mask, padded to `width` tokens."""
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        shape = (len(rows), width)
        batch = {name: np.full(shape, self.pad[name], np.int64) for name in self.inputs}
        batch[MASK] = np.zeros(shape, np.int64)
        for i, row in enumerate(rows):
            length = int(self.lengths[row])
            columns = slice(0, length) if self.padding_side == "right" else slice(-length, None)
            for name, flat in self.inputs.items():
                batch[name][i, columns] = flat[starts[row] : starts[row + 1]]
            batch[MASK][i, columns] = 1
        return batch

    def unpad(self, output: npt.NDArray[np.float32], rows: Sequence[int]) -> list[np.ndarray]:
        """Cut the padding from a per-token output of shape (batch, width, ...).

        Returns one array of shape (length, ...) for each of `rows`.
        """
        lengths = [int(self.lengths[row]) for row in rows]
        if self.padding_side == "right":
            return [output[i, :length] for i, length in enumerate(lengths)]
        return [output[i, -length:] for i, length in enumerate(lengths)]
