"""The labels of a dataset as the model numbers them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.shared.errors import DatasetError

GENERIC = re.compile(r"label_\d+", re.IGNORECASE)
SHOWN = 12


def numbering(found: Iterable[Any], labels: Sequence[str]) -> dict[Any, int]:
    """Label of the dataset -> index of the model's.

    Names are compared without regard to case; integers (or their digits, as CSV has them) are
    the model's own numbers. Names against a model that has none (LABEL_0, LABEL_1, ...) are an
    error: their order is not known. Raises DatasetError, which lists both sides.
    """
    distinct = list(dict.fromkeys(found))
    by_name = {label.casefold(): index for index, label in enumerate(labels)}
    numbers: dict[Any, int] = {}
    for one in distinct:
        named = by_name.get(one.casefold()) if isinstance(one, str) else None
        number = _number(one)
        if named is not None:
            numbers[one] = named
        elif number is not None and 0 <= number < len(labels):
            numbers[one] = number
        else:
            raise DatasetError(_apart(distinct, labels))
    return numbers


def _number(label: Any) -> int | None:
    if isinstance(label, bool):
        return None
    if isinstance(label, int):
        return label
    if isinstance(label, str) and label.isascii() and label.isdigit() and len(label) < 9:
        return int(label)
    return None


def _apart(found: Sequence[Any], labels: Sequence[str]) -> str:
    def some(names: Sequence[Any]) -> str:
        shown = ", ".join(str(name)[:40] for name in names[:SHOWN])
        return shown + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")

    advice = "relabel the dataset, or pass a model trained on it"
    if labels and all(GENERIC.fullmatch(label) for label in labels):
        advice = "give the model's config its id2label, or number the dataset's labels as it does"
    return (
        f"the labels of the dataset ({some(found)}) are not the model's ({some(labels)}); {advice}"
    )


def cross_entropy(
    logits: npt.NDArray[np.float32], expected: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Of logits (rows, labels) against the right labels: shape (rows,), in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(expected)), list(expected)]
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - chosen)


def column(
    row: Mapping[str, Any], wanted: str | None, known: Sequence[str], option: str, dataset: str
) -> str:
    """The name of a column: the one the user named, else the first of `known` that is there.

    Raises DatasetError with the columns there are.
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
        f"name one with {option}"
    )


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no columns"
