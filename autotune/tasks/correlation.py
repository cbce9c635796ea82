"""Correlation of expected and predicted numbers, by Pearson and by Spearman."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[np.float64]


def correlation_sums(expected: Numbers, found: Numbers) -> npt.NDArray[np.float64]:
    """Return each row's part of the sums that Pearson's correlation needs: shape (rows, 6).

    The numbers are taken from their means, so that squares of large numbers lose no digits.
    """
    x, y = np.asarray(expected, float), np.asarray(found, float)
    x, y = x - x.mean(), y - y.mean()
    return np.array([np.ones(len(x)), x, y, x * x, y * y, x * y]).T


def correlation_of_sums(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Pearson's correlation from sums of `correlation_sums`: shape (..., 6) -> (...).

    It is 0 where all expected or all found numbers are equal, for which it is not defined.
    """
    n, x, y, xx, yy, xy = np.moveaxis(totals, -1, 0)
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    together = n * xy - x * y
    return _ratio(together, spread)


def correlation(expected: Numbers, found: Numbers) -> float:
    """Return Pearson's correlation (-1 to 1), 0 where it is not defined."""
    return float(correlation_of_sums(correlation_sums(expected, found).sum(axis=0)))


def ranks(numbers: Numbers) -> npt.NDArray[np.float64]:
    """Return the rank of each number, from 1. Equal numbers share the mean of their ranks."""
    array = np.asarray(numbers, float)
    _, which, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which])


def weighted_rank_correlation(
    expected: Numbers, found: Numbers, weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return Spearman's correlation of resamples: shape (resamples,).

    `weights` says how often each row is in each resample: shape (resamples, rows).
    """
    x, y = _weighted_ranks(expected, weights), _weighted_ranks(found, weights)
    x -= np.average(x, axis=1, weights=weights)[:, None]
    y -= np.average(y, axis=1, weights=weights)[:, None]
    together = (weights * x * y).sum(axis=1)
    spread = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    return _ratio(together, spread)


def _weighted_ranks(numbers: Numbers, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return each row's rank in each resample: shape (resamples, rows)."""
    _, which = np.unique(np.asarray(numbers, float), return_inverse=True)
    counts = np.zeros((len(weights), int(which.max()) + 1))
    for row, group in enumerate(which):
        counts[:, group] += weights[:, row]
    last = np.cumsum(counts, axis=1)
    return np.asarray((last - (counts - 1) / 2)[:, which])


def _ratio(
    together: npt.NDArray[np.float64], spread: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the quotient, 0 where `spread` is 0."""
    return np.asarray(np.divide(together, spread, out=np.zeros_like(together), where=spread > 0))
