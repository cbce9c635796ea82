"""A Gaussian process over configurations: what is known of those that were not measured.

The covariance of two configurations is a sum over knobs, so that what a knob is worth carries
over to combinations not seen, plus a product over knobs, for what only a combination gives:

    k(x, y) = sum_d a_d exp(-2 D_d(x, y)) + s exp(-sum_d t_d D_d(x, y))

D_d is 0 where knob d has the same value and 1 where it differs; for a numeric knob it is the
number of choices between the two, 1 from first to last. A knob that is active in one of two
only differs. The scales are those of the largest posterior density under log-normal priors
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5), found by a
random walk: there are few trials, and a second spent here is one not measured. The prior of a
minor knob's relevance (`autotune.knobs`) is MINOR, that of any other 0: which allocator is used
is worth trying once there is an engine worth trying it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.knobs import KNOBS
from autotune.records import Config, Scalar
from autotune.space import Space

Array = npt.NDArray[np.float64]

ADDITIVE_DECAY = 2.0
FIRST_STEPS, STEPS = 150, 25
"""Of the random walk: when there are no scales yet, and from those of the last fit."""
STEP = 0.4
JITTER = 1e-8
RELEVANCE_SPREAD = 1.5
"""Standard deviation of the log of how much a knob matters."""
MINOR = -3.0
"""The mean of it for a minor knob; 0 for the others."""


class Encoder:
    """Configurations of a space as rows of numbers, one column a searched knob."""

    def __init__(self, space: Space) -> None:
        self._dimensions = [d for d in space.dimensions if len(d.choices) > 1]
        self.numeric = np.array([type(d.choices[0]) is int for d in self._dimensions])
        self.relevance = np.array([MINOR if KNOBS[d.name].minor else 0.0 for d in self._dimensions])
        self._places: list[dict[Scalar, int]] = [
            {choice: place for place, choice in enumerate(d.choices)} for d in self._dimensions
        ]

    def encode(self, configs: Sequence[Config]) -> Array:
        """Shape (configs, knobs): a choice's place, over the last one's for numeric knobs; one
        more for a value that is none of them (the baseline's), -1 where the knob is not active."""
        rows = np.full((len(configs), len(self._dimensions)), -1.0)
        for i, config in enumerate(configs):
            values = config.as_dict()
            for j, dimension in enumerate(self._dimensions):
                if dimension.name in values:
                    place = self._places[j].get(values[dimension.name], len(dimension.choices))
                    rows[i, j] = place / (len(dimension.choices) - 1 if self.numeric[j] else 1)
        return rows

    def distances(self, one: Array, other: Array) -> Array:
        """D of every pair: shape (len(one), len(other), knobs)."""
        a, b = one[:, None, :], other[None, :, :]
        differs = (a != b).astype(float)
        both = (a >= 0) & (b >= 0) & self.numeric
        return np.where(both, np.abs(a - b), differs)


@dataclass(frozen=True, slots=True)
class Scales:
    """Logarithms: relevance of each knob, and the sizes of the kernel's parts."""

    relevance: Array
    additive: float
    joint: float
    decay: float
    noise: float

    def prior(self, relevance: Array) -> float:
        """Log density, up to a constant; `relevance` is the mean of the knobs'."""
        off = np.array(
            [
                self.additive + 1.5,
                self.joint + 1.0,
                self.decay,
                (self.noise + 5.0) / 1.5,
            ]
        )
        spread = (self.relevance - relevance) / RELEVANCE_SPREAD
        return -0.5 * float(spread @ spread + off @ off)

    def moved(self, rng: np.random.Generator) -> Scales:
        """Some of them changed, at random."""
        steps = rng.normal(0.0, STEP, len(self.relevance))
        steps[rng.random(len(steps)) < 0.5] = 0.0
        others = rng.normal(0.0, STEP, 4) * (rng.random(4) < 0.5)
        return Scales(
            self.relevance + steps,
            self.additive + others[0],
            self.joint + others[1],
            self.decay + others[2],
            self.noise + others[3],
        )


class Surrogate:
    """Fitted to some configurations' values; predicts others'."""

    def __init__(self, encoder: Encoder, *, mean: float | None, seed: int) -> None:
        """`mean` is what is expected of an unknown configuration, None: the values' mean."""
        self._encoder = encoder
        self._fixed_mean = mean
        self._rng = np.random.default_rng(seed)
        self._scales = Scales(encoder.relevance, -1.5, -1.0, 0.0, -5.0)
        self._fitted = False

    def fit(self, rows: Array, values: Array) -> None:
        """`rows` as `Encoder.encode` gives them; `values` of shape (len(rows),)."""
        self._rows = rows
        self._mean = float(values.mean()) if self._fixed_mean is None else self._fixed_mean
        self._unit = max(float(values.std()), 1e-3)
        self._targets = (values - self._mean) / self._unit
        distances = self._encoder.distances(rows, rows)
        near = np.exp(-ADDITIVE_DECAY * distances)
        best = self._density(self._scales, distances, near)
        for _ in range(STEPS if self._fitted else FIRST_STEPS):
            moved = self._scales.moved(self._rng)
            density = self._density(moved, distances, near)
            if density > best:
                best, self._scales = density, moved
        self._fitted = True
        covariance = self._covariance(self._scales, distances, near)
        covariance[np.diag_indices_from(covariance)] += np.exp(self._scales.noise) + JITTER
        self._factor = np.asarray(np.linalg.cholesky(covariance), np.float64)
        self._weights = _solve(self._factor, self._targets)

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the values at `rows`, noise not included."""
        distances = self._encoder.distances(rows, self._rows)
        near = np.exp(-ADDITIVE_DECAY * distances)
        cross = self._covariance(self._scales, distances, near)
        mean = cross @ self._weights
        solved = np.linalg.solve(self._factor, cross.T)
        own = float(np.exp(self._scales.joint) + np.exp(self._additive(self._scales)).sum())
        variance = np.maximum(own - (solved**2).sum(axis=0), 1e-12)
        return self._mean + self._unit * mean, self._unit * np.sqrt(variance)

    @staticmethod
    def _additive(scales: Scales) -> Array:
        return scales.additive + scales.relevance

    def _covariance(self, scales: Scales, distances: Array, near: Array) -> Array:
        joint = np.exp(scales.joint - distances @ np.exp(scales.decay + scales.relevance))
        found: Array = near @ np.exp(self._additive(scales)) + joint
        return found

    def _density(self, scales: Scales, distances: Array, near: Array) -> float:
        """Log posterior density of the scales, up to a constant."""
        covariance = self._covariance(scales, distances, near)
        covariance[np.diag_indices_from(covariance)] += np.exp(scales.noise) + JITTER
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return -np.inf
        half = np.linalg.solve(factor, self._targets)
        fit = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
        return fit + scales.prior(self._encoder.relevance)


def _solve(factor: Array, values: Array) -> Array:
    found: Array = np.linalg.solve(factor.T, np.linalg.solve(factor, values))
    return found
