"""The gate: the accuracy test of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.records import Accuracy, Failure
from autotune.tasks.base import Row, Task

Outputs = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The outputs and predictions of eager float32 on the workload."""

    outputs: Outputs
    predictions: Sequence[Any]
    metrics: Mapping[str, float]
    metric_counts: npt.NDArray[np.float64] | None = None


BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_SEED = 0
"""A fixed seed: the gate judges every configuration on the same resamples."""


class Gate:
    """Compares the outputs of timed passes with eager float32 on the same rows.

    `max_drop` is the allowed relative loss of the task's main metric. Example: 0.01 allows a loss
    of 1%, such as F1 79.2 against 80.0.
    """

    def __init__(
        self, *, task: Task, rows: Sequence[Row], features: EncodedFeatures, max_drop: float
    ) -> None:
        self._task = task
        self._rows = rows
        self._features = features
        self._max_drop = max_drop
        self._resamples: npt.NDArray[np.int64] | None = None

    def reference(self, outputs: Outputs) -> Reference:
        """Return the reference that later calls of `judge` compare with."""
        predictions = self._task.decode(self._rows, self._features, outputs)
        metrics = self._task.score(self._rows, predictions)
        return Reference(
            outputs=outputs,
            predictions=predictions,
            metrics=metrics,
            metric_counts=self._task.metric_counts(self._rows, predictions),
        )

    def judge(self, outputs: Outputs, reference: Reference) -> Accuracy:
        """Return the metrics of `outputs`, and whether the loss is within `max_drop`."""
        predictions = self._task.decode(self._rows, self._features, outputs)
        metrics = self._task.score(self._rows, predictions, reference.predictions)
        main = self._task.metrics[0]
        before, after = reference.metrics[main], metrics[main]
        drop = (before - after) / before if before else 0.0
        difference = max(
            float(np.abs(outputs[name] - reference.outputs[name]).max()) for name in outputs
        )
        return Accuracy(
            metrics=metrics,
            relative_drop=drop,
            agreement=self._task.agreement(predictions, reference.predictions),
            max_abs_logit_difference=difference,
            allowed=drop <= self._max_drop,
            difference=self._gain_interval(predictions, reference),
        )

    def _gain_interval(
        self, predictions: Sequence[Any], reference: Reference
    ) -> tuple[float, float] | None:
        """Return the 95% interval of the gain in the main metric, in percentage points.

        The gain is the configuration's metric minus the reference's. The interval is a paired
        bootstrap over rows (Efron and Tibshirani, 1993, chapter 13). None if the task has no
        counts.
        """
        metric_counts = self._task.metric_counts(self._rows, predictions)
        if metric_counts is None or reference.metric_counts is None:
            return None
        if self._resamples is None:
            count = len(self._rows)
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            self._resamples = rng.multinomial(count, [1 / count] * count, size=BOOTSTRAP_RESAMPLES)
        after = self._task.main_metric(self._resamples @ metric_counts)
        before = self._task.main_metric(self._resamples @ reference.metric_counts)
        low, high = np.percentile(after - before, [2.5, 97.5])
        return float(low), float(high)

    def failure(self, accuracy: Accuracy, reference: Reference) -> Failure | None:
        """Return the failure of a configuration that loses too much. None if it is allowed."""
        if accuracy.allowed:
            return None
        main = self._task.metrics[0]
        return Failure(
            kind="inaccurate",
            detail=(
                f"{main} {accuracy.metrics[main]:.2f} against {reference.metrics[main]:.2f}: "
                f"a loss of {accuracy.relative_drop:.1%}, allowed {self._max_drop:.1%}"
            ),
        )
