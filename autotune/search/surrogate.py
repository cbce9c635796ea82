"""A Gaussian process over configurations: what is known of those that were not measured.

The covariance of two configurations is a sum over knobs, so that what a knob is worth carries
over to combinations not seen, plus a product over knobs, for what only a combination gives:

    k(x, y) = sum_d a_d exp(-2 D_d(x, y)) + s exp(-sum_d t_d D_d(x, y))

D_d is 0 where knob d has the same value and 1 where it differs; for a numeric knob it is the
number of choices between the two, 1 from first to last. A knob that is active in one of two
only differs. The scales are those of the largest posterior density under log-normal priors
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5), found by a
random walk: there are few trials, and a second spent here is one not measured. The prior of a
minor knob's relevance (`space.knobs`) is MINOR, that of any other 0: which allocator is used
is worth trying once there is an engine worth trying it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.shared.records import Config, Scalar
from autotune.space import Space
from autotune.space.knobs import KNOBS

Array = npt.NDArray[np.float64]

ADDITIVE_DECAY = 2.0
FIRST_STEPS, STEPS = 150, 25
"""Of the random walk: when there are no scales yet, and from those of the last fit."""
STEP = 0.4
GROWN = 1.05
"""They are looked for again when so many times the configurations are known."""
BORDER = 1e100
"""More than any targets' square in the covariance's metric."""
JITTER = 1e-8
RELEVANCE_SPREAD = 1.5
"""Standard deviation of the log of how much a knob matters."""
MINOR = -3.0
"""The mean of it for a minor knob; 0 for the others."""


class Encoder:
    """Configurations of a space as states: of each searched knob its choices, one more for a
    value that is none of them (the baseline's), and one for where the knob is not active.

    The states of all knobs are numbered through, so that a sum over knobs of what two states
    have to do with each other is a product of matrices: indicators, a matrix of states by
    states, indicators.
    """

    def __init__(self, space: Space) -> None:
        self._dimensions = [d for d in space.dimensions if len(d.choices) > 1]
        sizes = [len(d.choices) + 2 for d in self._dimensions]
        self._first = np.cumsum([0, *sizes])
        self._states: list[dict[Scalar, int]] = [
            {choice: first + place for place, choice in enumerate(d.choices)}
            for d, first in zip(self._dimensions, self._first, strict=False)
        ]
        self.relevance = np.array([MINOR if KNOBS[d.name].minor else 0.0 for d in self._dimensions])
        self.knob = np.repeat(np.arange(len(sizes)), sizes)
        """The knob of each state."""
        self.same = self.knob[:, None] == self.knob[None, :]
        self.distances = np.zeros(self.same.shape)
        """D of two states of the same knob, 0 of different knobs."""
        for dimension, first, size in zip(self._dimensions, self._first, sizes, strict=False):
            block = 1.0 - np.eye(size)
            if type(dimension.choices[0]) is int:
                places = np.arange(size - 1) / (size - 3)
                block[:-1, :-1] = np.abs(places[:, None] - places[None, :])
            self.distances[first : first + size, first : first + size] = block

    def encode(self, configs: Sequence[Config]) -> Array:
        """Shape (configs, states): 1 at the states of each configuration, else 0."""
        found = np.zeros((len(configs), len(self.knob)))
        for row, config in zip(found, configs, strict=True):
            values = config.as_dict()
            for dimension, states, end in zip(
                self._dimensions, self._states, self._first[1:], strict=True
            ):
                if dimension.name in values:
                    row[states.get(values[dimension.name], end - 2)] = 1.0
                else:
                    row[end - 1] = 1.0
        return found


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
        self._walked = 0  # configurations known when the scales were looked for last

    def fit(self, rows: Array, values: Array) -> None:
        """`rows` as `Encoder.encode` gives them; `values` of shape (len(rows),)."""
        self._rows = rows
        self._mean = float(values.mean()) if self._fixed_mean is None else self._fixed_mean
        self._unit = max(float(values.std()), 1e-3)
        targets = (values - self._mean) / self._unit
        if len(rows) >= GROWN * self._walked:
            self._walk(rows, targets, STEPS if self._walked else FIRST_STEPS)
            self._walked = len(rows)
        factor, half = _factorized(self._noisy(self._scales, rows), targets)
        self._whitening = np.linalg.inv(factor)
        self._weights = self._whitening.T @ half

    def _walk(self, rows: Array, targets: Array, steps: int) -> None:
        best = self._density(self._scales, rows, targets)
        for _ in range(steps):
            moved = self._scales.moved(self._rng)
            density = self._density(moved, rows, targets)
            if density > best:
                best, self._scales = density, moved

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the values at `rows`, noise not included."""
        scales = self._scales
        cross = self._covariance(scales, rows, self._rows)
        mean = cross @ self._weights
        own = float(np.exp(scales.joint) + np.exp(scales.additive + scales.relevance).sum())
        explained = np.square(cross @ self._whitening.T).sum(axis=1)
        variance = np.maximum(own - explained, 1e-12)
        return self._mean + self._unit * mean, self._unit * np.sqrt(variance)

    def _covariance(self, scales: Scales, one: Array, other: Array) -> Array:
        """k of every pair: shape (len(one), len(other))."""
        encoder = self._encoder
        worth = np.exp(scales.additive + scales.relevance)[encoder.knob]
        decay = np.exp(scales.decay + scales.relevance)[encoder.knob]
        additive = worth * np.where(encoder.same, np.exp(-ADDITIVE_DECAY * encoder.distances), 0.0)
        found: Array = np.exp(scales.joint - one @ ((decay * encoder.distances) @ other.T))
        found += one @ (additive @ other.T)
        return found

    def _noisy(self, scales: Scales, rows: Array) -> Array:
        covariance = self._covariance(scales, rows, rows)
        covariance[np.diag_indices_from(covariance)] += np.exp(scales.noise) + JITTER
        return covariance

    def _density(self, scales: Scales, rows: Array, targets: Array) -> float:
        """Log posterior density of the scales, up to a constant."""
        try:
            factor, half = _factorized(self._noisy(scales, rows), targets)
        except np.linalg.LinAlgError:
            return -np.inf
        fit = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
        return fit + scales.prior(self._encoder.relevance)


def _factorized(covariance: Array, targets: Array) -> tuple[Array, Array]:
    """The Cholesky factor L of `covariance`, and L^-1 targets: what L's next row would be, were
    the targets the covariances of one more with these."""
    count = len(targets)
    bordered = np.empty((count + 1, count + 1))
    bordered[:count, :count] = covariance
    bordered[count, :count] = bordered[:count, count] = targets
    bordered[count, count] = BORDER
    factor = np.asarray(np.linalg.cholesky(bordered), np.float64)
    return factor[:count, :count], factor[count, :count]
