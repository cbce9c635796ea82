"""The gate: the accuracy test of a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DegenerateBaselineError
from autotune.shared.records import (
    OUTSIDE,
    PROVEN,
    UNPROVEN,
    Accuracy,
    Failure,
    ScoreDrift,
)
from autotune.shared.stats import percentile
from autotune.shared.words import loss_or_gain
from autotune.tasks.base import Row, Task

Outputs = Mapping[str, npt.NDArray[np.float32]]

RESAMPLES = 1000
SEED = 0
"""A fixed seed: the gate judges every configuration on the same resamples."""
INTERVAL_PERCENT = (2.5, 97.5)
CHANCE_PERCENT = 1.0
"""The reference's lead over uninformed predictions must be above zero in all but this percentage
of resamples."""
ROUNDING = 1e-9
"""Differences of metrics below this, in percentage points, are rounding errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The outputs and predictions of eager float32 on the workload.

    `by_agreement`: its main metric is no better than chance. Configurations are then judged by the
    share of predictions that are the same.
    """

    outputs: Outputs
    predictions: Sequence[Any]
    metrics: Mapping[str, float]
    by_agreement: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """What the gate demands.

    `max_drop` is the allowed relative loss of the task's main metric. Example: 0.01 allows a loss
    of 1%, such as F1 79.2 against 80.0. `proven`: before it is chosen, a configuration must be
    shown to be within the limit, not only measured to be. `accept_degenerate`: a baseline that is
    no better than chance is accepted. The gate then allows `max_drop` as the share of predictions
    that differ from eager's.
    """

    max_drop: float
    proven: bool = False
    accept_degenerate: bool = False


class Gate:
    """Compares the outputs of timed passes with eager float32 on the same rows."""

    def __init__(
        self, *, task: Task, rows: Sequence[Row], features: EncodedFeatures, rule: GateRule
    ) -> None:
        self._task = task
        self._rows = rows
        self._features = features
        self._rule = rule
        self._weights: npt.NDArray[np.int64] | None = None

    def reference(self, outputs: Outputs) -> Reference:
        """Return the reference that later calls of `judge` compare with.

        Raises DegenerateBaselineError if it is no better than chance, unless the rule accepts
        that.
        """
        predictions = self._task.decode(self._rows, self._features, outputs)
        metrics = self._task.score(self._rows, predictions)
        reason = self._degenerate(predictions, metrics)
        if reason is not None and not self._rule.accept_degenerate:
            raise DegenerateBaselineError(
                f"{reason}, so it cannot tell a right configuration from a wrong one; check that "
                "the labels (or tags) are the model's, that the model is fine-tuned for this task, "
                "that the dataset is its own and that there are enough rows; --accept-degenerate "
                "judges by agreement with eager instead"
            )
        return Reference(
            outputs=outputs,
            predictions=predictions,
            metrics=metrics,
            by_agreement=reason is not None,
        )

    def judge(self, outputs: Outputs, reference: Reference) -> Accuracy:
        """Return the metrics of `outputs`, and whether the loss is within the limit."""
        task = self._task
        predictions = task.decode(self._rows, self._features, outputs)
        metrics = task.score(self._rows, predictions, reference.predictions)
        agreement = task.agreement(predictions, reference.predictions)
        before, after = reference.metrics[task.metrics[0]], metrics[task.metrics[0]]
        if reference.by_agreement:
            before, after = 100.0, 100 * agreement
        losses = self._resampled_losses(predictions, reference)
        drop = (before - after) / before
        difference = max(
            float(np.abs(outputs[name] - reference.outputs[name]).max()) for name in outputs
        )
        low = high = None
        if losses is not None:
            low, high = (float(end) for end in np.percentile(losses, INTERVAL_PERCENT))
        certainty = self._certainty(drop, high)
        return Accuracy(
            metrics=metrics,
            relative_drop=drop,
            agreement=agreement,
            max_abs_logit_difference=difference,
            allowed=certainty != OUTSIDE,
            difference=None if low is None or high is None else (-high * before, -low * before),
            loss=None if low is None or high is None else (low, high),
            rows=len(self._rows),
            certainty=certainty,
            rows_to_prove=self._rows_to_prove(drop, high),
            score_drift=_drift(task.scores(outputs), task.scores(reference.outputs)),
        )

    def failure(self, accuracy: Accuracy, reference: Reference) -> Failure | None:
        """Return the failure of a configuration that loses too much. None if it is allowed."""
        if accuracy.allowed:
            return None
        main = self._task.metrics[0]
        what = (
            f"{100 * accuracy.agreement:.2f}% of the predictions are eager's"
            if reference.by_agreement
            else f"{main} {accuracy.metrics[main]:.2f} against {reference.metrics[main]:.2f}"
        )
        return Failure(
            kind="inaccurate",
            detail=(
                f"{what}: {loss_or_gain(accuracy.relative_drop)}, allowed {self._rule.max_drop:.1%}"
            ),
        )

    def unproven(self, accuracy: Accuracy) -> Failure | None:
        """Return the failure of a configuration that must be proven and is not. None if it may."""
        if not self._rule.proven or accuracy.certainty == PROVEN:
            return None
        more = accuracy.rows_to_prove
        remedy = f"; about {more} rows would prove it" if more is not None else ""
        return Failure(
            kind="inaccurate",
            detail=(
                f"{loss_or_gain(accuracy.relative_drop)} on {accuracy.rows} rows does not prove "
                f"that the loss is within {self._rule.max_drop:.1%}{remedy}"
            ),
        )

    def _degenerate(self, predictions: Sequence[Any], metrics: Mapping[str, float]) -> str | None:
        """Return why the reference is no better than chance. None if it is better.

        It must surely be better than predictions that anyone could make without reading the
        input. "Surely" is by a paired bootstrap over rows.
        """
        task, rows = self._task, self._rows
        name = task.metrics[0]
        if not math.isfinite(metrics[name]) or metrics[name] <= 0:
            return f"the baseline's {name} is {metrics[name]:.2f}"
        own = task.resampled(rows, predictions, self._resample_weights())
        if own is None:
            return None
        rng = np.random.default_rng(SEED)
        for words, guesses in task.uninformed(rows, predictions, rng):
            guessed = task.resampled(rows, guesses, self._resample_weights())
            if guessed is None:
                continue
            lead = float(np.percentile(own - guessed, CHANCE_PERCENT))
            if lead <= ROUNDING:
                chance = task.score(rows, guesses)[name]
                return (
                    f"the baseline's {name} of {metrics[name]:.2f} is not surely better than "
                    f"{chance:.2f}, which {words} gets on these {len(rows)} rows"
                )
        return None

    def _resample_weights(self) -> npt.NDArray[np.int64]:
        """How often each row is in each resample: shape (RESAMPLES, rows)."""
        if self._weights is None:
            count = len(self._rows)
            rng = np.random.default_rng(SEED)
            self._weights = rng.multinomial(count, [1 / count] * count, size=RESAMPLES)
        return self._weights

    def _resampled_losses(
        self, predictions: Sequence[Any], reference: Reference
    ) -> npt.NDArray[np.float64] | None:
        """Return the relative loss in resamples: shape (RESAMPLES,). None if it has no interval.

        It is a paired bootstrap over rows (Efron and Tibshirani, 1993, chapter 13). Rows that all
        agree would give an interval of no width, however few they are. So each resample may also
        hold rows that were not seen: on average one on which all is lost, and one on which as much
        is gained. Without any loss in n rows the upper end is then about 4 / n, close to the exact
        bound of a binomial, 3.7 / n.
        """
        task, weights = self._task, self._resample_weights()
        if reference.by_agreement:
            same = task.same(predictions, reference.predictions)
            before: Any = np.full(len(weights), 100.0)
            after: Any = 100 * (weights @ same) / weights.sum(axis=1)
        else:
            before = task.resampled(
                self._rows, reference.predictions, weights, reference.predictions
            )
            after = task.resampled(self._rows, predictions, weights, reference.predictions)
        if before is None or after is None:
            return None
        rng = np.random.default_rng(SEED + 1)
        unseen = rng.poisson(1.0, len(weights)) - rng.poisson(1.0, len(weights))
        losses = (before - after) / np.maximum(before, ROUNDING)
        return np.asarray(losses + unseen / len(self._rows))

    def _certainty(self, drop: float, high: float | None) -> str:
        if not drop <= self._rule.max_drop:
            return OUTSIDE
        return PROVEN if high is not None and high <= self._rule.max_drop else UNPROVEN

    def _rows_to_prove(self, drop: float, high: float | None) -> int | None:
        """Return about how many rows would prove a loss within the limit. None if none would.

        The distance from the loss to the end of its interval shrinks with the root of the rows.
        """
        room = self._rule.max_drop - drop
        if high is None or room <= 0 or high <= self._rule.max_drop:
            return None
        return math.ceil(len(self._rows) * ((high - drop) / room) ** 2)


def _drift(
    scores: npt.NDArray[np.float64] | None, reference: npt.NDArray[np.float64] | None
) -> ScoreDrift | None:
    """Return how far scores are from the reference's. None for a task without scores."""
    if scores is None or reference is None:
        return None
    distance = np.abs(scores - reference).max(axis=-1)
    return ScoreDrift(largest=float(distance.max()), p99=percentile(distance.ravel().tolist(), 99))
