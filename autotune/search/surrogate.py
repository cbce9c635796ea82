"""A Gaussian process that predicts the values of configurations that were not measured.

The covariance of two configurations x and y is a sum over knobs plus a product over knobs:

    k(x, y) = sum_d a_d exp(-2 D_d(x, y)) + s exp(-sum_d t_d D_d(x, y))

The sum carries the effect of a knob over to combinations that were not seen. The product stands
for the effects of whole combinations. D_d is the distance of the two values of knob d: 0 if they
are equal, 1 if they differ. For a numeric knob it is the number of choices between the two values,
scaled to 1 from the first choice to the last. A knob that is active in only one of the two
configurations has distance 1.

A random walk looks for the hyperparameters of the largest posterior density under log-normal
priors (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 5). The walk
is short, because time spent here is not spent on measuring. A minor knob (`space.knobs`) is
expected to matter less than the others: an allocator, for example, is worth trying once there is
an engine worth trying it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from autotune.shared.records import Config, Scalar
from autotune.space import Space
from autotune.space.knobs import KNOBS

Array = npt.NDArray[np.float64]

ADDITIVE_DECAY = 2.0
"""The factor of D_d in the covariance's sum over knobs."""
FIRST_WALK_STEPS, LATER_WALK_STEPS = 600, 100
"""Steps of the random walk: of the first one, and of those that start from the last result."""
STEP_DEVIATION = 0.4
"""Standard deviation of one step of a hyperparameter's logarithm."""
REFIT_GROWTH = 1.05
"""The random walk is repeated when the number of known configurations has grown by this factor."""
JITTER = 1e-8
"""Added to the covariance's diagonal, so that it can be factorised."""
RELEVANCE_DEVIATION = 1.5
"""Prior standard deviation of the logarithm of a knob's relevance."""
MINOR_RELEVANCE = -3.0
"""Prior mean of the logarithm of a minor knob's relevance; 0 for the other knobs."""


class Encoder:
    """Encodes configurations of a space as rows of indicators, one for each state of each knob.

    The states of a searched knob are its choices, one state for any other value (the baseline may
    have one), and one state for "not active". States are numbered across all knobs. So a sum over
    knobs of a function of two states is a product of three matrices: the rows of the first
    configurations, a matrix of states by states, and the rows of the second configurations.
    """

    def __init__(self, space: Space) -> None:
        self._dimensions = [d for d in space.dimensions if len(d.choices) > 1]
        sizes = [len(d.choices) + 2 for d in self._dimensions]
        self._first = np.cumsum([0, *sizes])
        self._states: list[dict[Scalar, int]] = [
            {choice: first + place for place, choice in enumerate(d.choices)}
            for d, first in zip(self._dimensions, self._first, strict=False)
        ]
        self.prior_relevance = np.array(
            [MINOR_RELEVANCE if KNOBS[d.name].minor else 0.0 for d in self._dimensions]
        )
        """Prior mean of the logarithm of each knob's relevance."""
        self.knob = np.repeat(np.arange(len(sizes)), sizes)
        """The number of each state's knob."""
        self.same_knob = self.knob[:, None] == self.knob[None, :]
        """Shape (states, states): whether the two states belong to the same knob."""
        self.distances = np.zeros(self.same_knob.shape)
        """Shape (states, states): D of two states of the same knob, 0 for different knobs."""
        for dimension, first, size in zip(self._dimensions, self._first, sizes, strict=False):
            block = 1.0 - np.eye(size)
            if type(dimension.choices[0]) is int:
                places = np.arange(size - 1) / (size - 3)
                block[:-1, :-1] = np.abs(places[:, None] - places[None, :])
            self.distances[first : first + size, first : first + size] = block

    def encode(self, configs: Sequence[Config]) -> Array:
        """Rows of shape (configs, states): 1 at the states of each configuration, else 0."""
        rows = np.zeros((len(configs), len(self.knob)))
        for row, config in zip(rows, configs, strict=True):
            values = dict(config)
            for dimension, states, end in zip(
                self._dimensions, self._states, self._first[1:], strict=True
            ):
                if dimension.name in values:
                    row[states.get(values[dimension.name], end - 2)] = 1.0
                else:
                    row[end - 1] = 1.0
        return rows


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Logarithms of the relevance of each knob and of the sizes of the covariance's parts."""

    relevance: Array
    additive: float
    joint: float
    decay: float
    noise: float

    def log_prior(self, prior_relevance: Array) -> float:
        """Log density of the prior, up to a constant, with this mean of the knobs' relevance."""
        others = np.array(
            [
                self.additive + 1.5,
                self.joint + 1.0,
                self.decay,
                (self.noise + 5.0) / 1.5,
            ]
        )
        relevance = (self.relevance - prior_relevance) / RELEVANCE_DEVIATION
        return -0.5 * float(relevance @ relevance + others @ others)

    def stepped(self, rng: np.random.Generator) -> Hyperparameters:
        """A copy with about half of the values changed at random: one step of the walk."""
        steps = rng.normal(0.0, STEP_DEVIATION, len(self.relevance))
        steps[rng.random(len(steps)) < 0.5] = 0.0
        others = rng.normal(0.0, STEP_DEVIATION, 4) * (rng.random(4) < 0.5)
        return Hyperparameters(
            self.relevance + steps,
            self.additive + others[0],
            self.joint + others[1],
            self.decay + others[2],
            self.noise + others[3],
        )


class Surrogate:
    """A Gaussian process, fitted to the values of some configurations, that predicts others."""

    def __init__(self, encoder: Encoder, *, mean: float | None, seed: int) -> None:
        """`mean` is the value expected of an unknown configuration; None: the known values' mean.

        `seed` is that of the random walk.
        """
        self._encoder = encoder
        self._fixed_mean = mean
        self._rng = np.random.default_rng(seed)
        self._hyperparameters = Hyperparameters(encoder.prior_relevance, -1.5, -1.0, 0.0, -5.0)
        self._known_at_walk = 0  # configurations known at the last random walk

    def fit(self, rows: Array, values: Array) -> None:
        """Fit to the `values`, shape (configs,), of the configurations encoded as `rows`."""
        self._rows = rows
        self._mean = float(values.mean()) if self._fixed_mean is None else self._fixed_mean
        self._unit = max(float(values.std()), 1e-3)
        targets = (values - self._mean) / self._unit
        if len(rows) >= REFIT_GROWTH * self._known_at_walk:
            self._walk(rows, targets, LATER_WALK_STEPS if self._known_at_walk else FIRST_WALK_STEPS)
            self._known_at_walk = len(rows)
        factor, whitened = _whitened(self._noisy_covariance(self._hyperparameters, rows), targets)
        self._whitening = np.linalg.inv(factor)
        self._weights = self._whitening.T @ whitened

    def _walk(self, rows: Array, targets: Array, steps: int) -> None:
        """Improve the hyperparameters by `steps` random steps; keep those that are better."""
        best = self._log_posterior(self._hyperparameters, rows, targets)
        for _ in range(steps):
            stepped = self._hyperparameters.stepped(self._rng)
            density = self._log_posterior(stepped, rows, targets)
            if density > best:
                best, self._hyperparameters = density, stepped

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the values at `rows`, measuring noise not included.

        Both have shape (configs,).
        """
        parameters = self._hyperparameters
        cross = self._covariance(parameters, rows, self._rows)
        mean = cross @ self._weights
        relevance = np.exp(parameters.additive + parameters.relevance)
        prior_variance = float(np.exp(parameters.joint) + relevance.sum())
        explained = np.square(cross @ self._whitening.T).sum(axis=1)
        variance = np.maximum(prior_variance - explained, 1e-12)
        return self._mean + self._unit * mean, self._unit * np.sqrt(variance)

    def _covariance(self, parameters: Hyperparameters, one: Array, other: Array) -> Array:
        """k of every pair of rows: shape (len(one), len(other))."""
        encoder = self._encoder
        size = np.exp(parameters.additive + parameters.relevance)[encoder.knob]
        decay = np.exp(parameters.decay + parameters.relevance)[encoder.knob]
        similarity = np.exp(-ADDITIVE_DECAY * encoder.distances)
        additive = size * np.where(encoder.same_knob, similarity, 0.0)
        found: Array = np.exp(parameters.joint - one @ ((decay * encoder.distances) @ other.T))
        found += one @ (additive @ other.T)
        return found

    def _noisy_covariance(self, parameters: Hyperparameters, rows: Array) -> Array:
        """The covariance of `rows` with each other, measuring noise included."""
        covariance = self._covariance(parameters, rows, rows)
        covariance[np.diag_indices_from(covariance)] += np.exp(parameters.noise) + JITTER
        return covariance

    def _log_posterior(self, parameters: Hyperparameters, rows: Array, targets: Array) -> float:
        """Log posterior density of the hyperparameters, up to a constant.

        Minus infinity if the covariance cannot be factorised.
        """
        try:
            factor, whitened = _whitened(self._noisy_covariance(parameters, rows), targets)
        except np.linalg.LinAlgError:
            return -np.inf
        fit = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum())
        return fit + parameters.log_prior(self._encoder.prior_relevance)


def _whitened(covariance: Array, targets: Array) -> tuple[Array, Array]:
    """The lower Cholesky factor L of `covariance`, and L^-1 `targets`. Raises LinAlgError."""
    factor = np.asarray(np.linalg.cholesky(covariance), np.float64)
    whitened = solve_triangular(factor, targets, lower=True, check_finite=False)
    return factor, np.asarray(whitened, np.float64)
