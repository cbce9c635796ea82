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

    All labels of a dataset are read in one way:

    1. as names, if each is a text that equals one of the model's names;
    2. as positions, if each is a whole number from 0 up, or a text of digits as in CSV;
    3. as names without regard to case, if no two names differ in case only.

    Whole numbers may also be names: a model may call its labels 1, 2 and 3. Then the reading that
    fits all numbers is taken. `LABEL_2` stands for position 2 in any model.

    Raises DatasetError if no reading fits, if two readings of whole numbers fit and differ, or if
    two labels would become one.
    """
    distinct = list(dict.fromkeys(_hashable(one, labels) for one in found))
    by_name = {label: index for index, label in enumerate(labels)}
    texts = all(isinstance(one, str) for one in distinct)
    numbered = all(isinstance(one, int) and not isinstance(one, bool) for one in distinct)
    named = {one: by_name[str(one)] for one in distinct if str(one) in by_name}
    positions = {
        one: number
        for one in distinct
        if (number := _as_position(one)) is not None and number < len(labels)
    }
    names_fit = (texts or numbered) and len(named) == len(distinct) and len(by_name) == len(labels)
    positions_fit = len(positions) == len(distinct)
    if names_fit and positions_fit and numbered and named != positions:
        raise DatasetError(_two_readings(distinct, labels))
    if names_fit:
        return _one_to_one(named, labels)
    if positions_fit:
        return _one_to_one(positions, labels)
    folded = {label.casefold(): index for index, label in enumerate(labels)}
    if texts and len(folded) == len(labels):
        alike = {one: folded[one.casefold()] for one in distinct if one.casefold() in folded}
        if len(alike) == len(distinct):
            return _one_to_one(alike, labels)
    raise DatasetError(_labels_differ(distinct, labels))


def _hashable(label: Any, labels: Sequence[str]) -> Any:
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise DatasetError(_labels_differ([label], labels))
    return label


def _one_to_one(numbers: dict[Any, int], labels: Sequence[str]) -> dict[Any, int]:
    """Return `numbers`. Raises DatasetError if two labels of the dataset share a number."""
    first: dict[int, Any] = {}
    for one, number in numbers.items():
        other = first.setdefault(number, one)
        if other != one:
            raise DatasetError(
                f"the labels {other!r} and {one!r} of the dataset would both be the model's "
                f"{labels[number]!r}; give each label one spelling"
            )
    return numbers


def _as_position(label: Any) -> int | None:
    """Return the position that a label states: 2 for 2, "2" and "LABEL_2". None for others.

    A text has at most 8 digits.
    """
    if isinstance(label, int):
        return label if label >= 0 else None
    digits = label[6:] if GENERIC_LABEL.fullmatch(label) else label
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else None


def _shown(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:LABELS_SHOWN])
    return shown + (f", ... ({len(names)} in all)" if len(names) > LABELS_SHOWN else "")


def _two_readings(found: Sequence[Any], labels: Sequence[str]) -> str:
    """Return the error message for numbers that are names and positions of different labels."""
    return (
        f"the labels of the dataset ({_shown(found)}) can be the model's names ({_shown(labels)}) "
        "or positions in that list, which are other labels; write names as text "
        f'("{found[0]}"), or positions as LABEL_{found[0]}'
    )


def _labels_differ(found: Sequence[Any], labels: Sequence[str]) -> str:
    """Return the error message for labels that the model does not have."""
    advice = "relabel the dataset, or pass a model trained on it"
    if labels and all(GENERIC_LABEL.fullmatch(label) for label in labels):
        advice = "set id2label in the model's config, or use the model's numbers in the dataset"
    if len({type(label) for label in found}) > 1:
        advice = "write all labels as names, or all as numbers"
    if -1 in found:
        advice = "-1 marks rows without a label, as in a test split: pass rows with labels"
    return (
        f"the labels of the dataset ({_shown(found)}) are not the model's ({_shown(labels)}); "
        f"{advice}"
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


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the probability of each label, of which one is right: shape (..., labels)."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the probability of each label by itself: shape (..., labels)."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


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
