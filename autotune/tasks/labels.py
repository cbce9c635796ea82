"""Match the labels and columns of a dataset with the model and the task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.shared.errors import DatasetError

GENERIC_LABEL = re.compile(r"label_\d+", re.IGNORECASE)
"""The label names of a model whose config has none of its own: LABEL_0, LABEL_1, ..."""
LABELS_SHOWN = 12
"""Most labels that an error message lists for each side."""


def label_numbers(found: Iterable[Any], labels: Sequence[str]) -> dict[Any, int]:
    """Return the model's label number for each distinct label of the dataset.

    Names match without regard to case. An integer, or a text of digits as in CSV, is already the
    model's number. If the model has only generic names (LABEL_0, LABEL_1, ...), names in the
    dataset are an error, because their order is unknown.

    Raises DatasetError, which lists the labels of both sides.
    """
    distinct = list(dict.fromkeys(found))
    by_name = {label.casefold(): index for index, label in enumerate(labels)}
    numbers: dict[Any, int] = {}
    for one in distinct:
        named = by_name.get(one.casefold()) if isinstance(one, str) else None
        number = _as_number(one)
        if named is not None:
            numbers[one] = named
        elif number is not None and 0 <= number < len(labels):
            numbers[one] = number
        else:
            raise DatasetError(_labels_differ(distinct, labels))
    return numbers


def _as_number(label: Any) -> int | None:
    """Return an integer, or a text of up to 8 digits, as a number. None for other labels."""
    if isinstance(label, bool):
        return None
    if isinstance(label, int):
        return label
    if isinstance(label, str) and label.isascii() and label.isdigit() and len(label) < 9:
        return int(label)
    return None


def _labels_differ(found: Sequence[Any], labels: Sequence[str]) -> str:
    """Return the error message for labels that the model does not have."""

    def some(names: Sequence[Any]) -> str:
        shown = ", ".join(str(name)[:40] for name in names[:LABELS_SHOWN])
        return shown + (f", ... ({len(names)} in all)" if len(names) > LABELS_SHOWN else "")

    advice = "relabel the dataset, or pass a model trained on it"
    if labels and all(GENERIC_LABEL.fullmatch(label) for label in labels):
        advice = "set id2label in the model's config, or use the model's numbers in the dataset"
    return (
        f"the labels of the dataset ({some(found)}) are not the model's ({some(labels)}); {advice}"
    )


def cross_entropy(
    logits: npt.NDArray[np.float32], expected: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return the cross-entropy of logits (rows, labels) in nats: shape (rows,).

    `expected` holds the right label number of each row.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(expected)), list(expected)]
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - chosen)


def choose_column(
    row: Mapping[str, Any], wanted: str | None, known: Sequence[str], option: str, dataset: str
) -> str:
    """Return `wanted`, or the first of `known` that `row` has if the user named no column.

    Raises DatasetError, which lists the dataset's columns.
    """
    if wanted is not None:
        if wanted in row:
            return wanted
        raise DatasetError(f"{option} {wanted}: {dataset} has {_columns(row)}")
    for name in known:
        if name in row:
            return name
    raise DatasetError(
        f"{dataset} has none of the columns {', '.join(known)}, it has {_columns(row)}; "
        f"name the right column with {option}"
    )


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no columns"
