"""How often does the gate allow a configuration that loses too much?

    python bench/gate.py RUN [--draws 300]

The reference outputs of the finished run RUN are a population of rows. Noise on its logits makes
configurations whose loss on the population is known. Samples of rows are drawn from it, with
replacement, and both gates judge each sample. A configuration that loses more than the limit
should not be allowed, one that loses nothing should be.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from autotune.commands.promise.reopen import reopen
from autotune.shared.records import PROVEN
from autotune.store.folder import folder_of
from autotune.tasks.base import Task
from autotune.tasks.gate import Gate, GateRule

LIMIT = 0.01
ROWS = (64, 256, 1024, 4096)
LOSSES = (0.0, 0.005, 0.015, 0.02, 0.03)
"""Relative losses of the population that are looked for."""


class Stored:
    """A task whose outputs are predictions that are known already."""

    def __init__(self, task: Task, predictions: dict[int, list[Any]]) -> None:
        self._task, self._predictions = task, predictions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def decode(self, rows: Any, features: Any, outputs: Any) -> list[Any]:
        which, *picked = outputs["picked"].tolist()
        return [self._predictions[int(which)][int(row)] for row in picked]

    def scores(self, outputs: Any) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    run = reopen(folder_of(options.run))
    reference = run.reference()
    rng = np.random.default_rng(0)
    found = {0: list(reference.predictions)}
    main_metric = run.task.metrics[0]
    before = reference.metrics[main_metric]
    by_loss: dict[float, tuple[int, float]] = {0.0: (0, 0.0)}
    for number in range(1, 400):
        scale = rng.uniform(0.0, 1.5)
        noisy = {
            name: logits + scale * rng.normal(size=logits.shape).astype(np.float32)
            for name, logits in reference.outputs.items()
        }
        found[number] = run.task.decode(run.rows, run.features, noisy)
        loss = 1 - run.task.score(run.rows, found[number])[main_metric] / before
        for wanted in LOSSES[1:]:
            if wanted not in by_loss or abs(loss - wanted) < abs(by_loss[wanted][1] - wanted):
                by_loss[wanted] = (number, loss)
    task: Any = Stored(run.task, found)
    print(f"{run.task.name}, {len(run.rows)} rows, {main_metric} {before:.2f}; allowed of draws:")
    print("| true loss | " + " | ".join(f"point, {n} | proven, {n}" for n in ROWS) + " |")
    print("|---" * (1 + 2 * len(ROWS)) + "|")
    for number, loss in by_loss.values():
        cells = []
        for count in ROWS:
            allowed = proven = 0
            for _ in range(options.draws):
                picked = rng.integers(0, len(run.rows), count)
                gate = Gate(
                    task=task,
                    rows=[run.rows[row] for row in picked],
                    features=run.features,
                    rule=GateRule(max_drop=LIMIT, accept_degenerate=True),
                )

                def outputs(which: int, picked: Any = picked) -> dict[str, Any]:
                    return {"picked": np.array([which, *picked], np.float32)}

                judged = gate.judge(outputs(number), gate.reference(outputs(0)))
                allowed += judged.allowed
                proven += judged.certainty == PROVEN
            cells += [f"{allowed / options.draws:.1%}", f"{proven / options.draws:.1%}"]
        print(f"| {loss:.2%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
