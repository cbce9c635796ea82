"""A finished run of ten one-token questions, as a search leaves it."""

from __future__ import annotations

import numpy as np
import yaml
from fakes import MODES, host, surroundings
from qa_rows import ROWS

from autotune.shared.records import Config, to_jsonable
from autotune.space import baseline, complete
from autotune.store.folder import RunFolder
from autotune.tasks import task_named

TASK = task_named("qa")
BEST: Config = complete(
    surroundings(), {"mode": "jit", "precision": "bf16", "padding": "length_sorted"}
)
PROMISE = {
    "objective": "throughput",
    "median": 4.0,
    "low": 3.0,
    "high": 4.5,
    "coverage": 0.75,
    "samples": 3,
    "speedup": 4.0,
    "baseline": 1.0,
    "metrics": {"f1": 100.0, "exact_match": 100.0},
}


def leave_run(path, **promise):
    """The folder of a run; `promise` replaces parts of PROMISE."""
    folder = RunFolder(path)
    folder.workload.mkdir(parents=True)
    folder.write_manifest(
        {
            "workload": {"task": "qa"},
            "model": {"labels": [], "digest": "d", "model_type": "bert"},
            "max_accuracy_drop": 0.01,
            "settings": {},
            "baseline": to_jsonable(baseline(surroundings())),
            "stacks": {
                "default": {"python": "python", "versions": {"torch": "2.8.0"}, "modes": MODES}
            },
        }
    )
    TASK.write(ROWS, folder.data)
    np.savez(
        folder.workload / "features.npz",
        lengths=np.ones(10, np.int32),
        example=np.arange(10, dtype=np.int32),
        offsets=np.tile(np.array([[0, 3]], np.int32), (10, 1)),
    )
    zeros = np.zeros(10, np.float32)
    np.savez(folder.reference, start_logits=zeros, end_logits=zeros)
    folder.best.write_text(
        yaml.safe_dump(
            {
                "config": dict(BEST),
                "model": {"path": "m", "head": TASK.head, "outputs": dict(TASK.outputs)},
                "stack": {"python": "python", "torch": "2.8.0"},
                "host": host().fingerprint(),
                "promise": {**PROMISE, **promise},
            }
        )
    )
    return folder
