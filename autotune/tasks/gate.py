"""The gate: is a configuration still right?"""

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
    """What eager float32 answers on the workload."""

    outputs: Outputs
    predictions: Sequence[Any]
    metrics: Mapping[str, float]
    tallies: npt.NDArray[np.float64] | None = None


RESAMPLES = 1000
SEED = 0
"""Every configuration is judged on the same resamples."""


class Gate:
    """Judges outputs of timed passes against eager float32 on the same rows.

    `max_drop` is the allowed relative loss of the task's main metric (0.01 for 1%).
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
        predictions = self._task.decode(self._rows, self._features, outputs)
        metrics = self._task.score(self._rows, predictions)
        return Reference(
            outputs=outputs,
            predictions=predictions,
            metrics=metrics,
            tallies=self._task.tallies(self._rows, predictions),
        )

    def judge(self, outputs: Outputs, reference: Reference) -> Accuracy:
        """The metrics of `outputs`, and whether they are within the limit."""
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
            difference=self._difference(predictions, reference),
        )

    def _difference(
        self, predictions: Sequence[Any], reference: Reference
    ) -> tuple[float, float] | None:
        """Between which the gain in the main metric lies, in points of percent: the 95%
        interval of a paired bootstrap over rows (Efron and Tibshirani, 1993, chapter 13)."""
        tallies = self._task.tallies(self._rows, predictions)
        if tallies is None or reference.tallies is None:
            return None
        if self._resamples is None:
            count = len(self._rows)
            rng = np.random.default_rng(SEED)
            self._resamples = rng.multinomial(count, [1 / count] * count, size=RESAMPLES)
        after = self._task.main_metric(self._resamples @ tallies)
        before = self._task.main_metric(self._resamples @ reference.tallies)
        low, high = np.percentile(after - before, [2.5, 97.5])
        return float(low), float(high)

    def failure(self, accuracy: Accuracy, reference: Reference) -> Failure | None:
        """The failure of a configuration that is outside the limit."""
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
