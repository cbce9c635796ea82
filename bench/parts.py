"""How far the time of a part of a pass is from the time of the whole pass, on recorded tables.

    python bench/parts.py bench/tables/qa-*.jsonl.gz

A search times parts: every nth batch of a pass. The part stands for the whole in proportion to its
padded tokens. For each recorded pass of at least 8 batches, this compares every part with the pass
that it is of, also in proportion to floating-point operations, by the model's own polynomial.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recorded import Table

from autotune import demo
from autotune.driver.runner import POINT_KNOBS
from autotune.driver.start import start_worker
from autotune.host import detect
from autotune.search.bounds import Bounds
from autotune.shared.padding import batches_of_instance, plan
from autotune.shared.stats import percentile
from autotune.store.folder import RunFolder
from autotune.tasks import task_named
from autotune.tasks.workload import Workload, encode, sample
from autotune.worker.measure import part_of_pass

LEAST_BATCHES = 8
MAX_SEQ_LENGTH, DOC_STRIDE = 384, 128
PARTS = (2, 4, 8)


def workload(rows: int, folder: RunFolder) -> Workload:
    """The demo's rows, as bench/record.py encoded them."""
    task = task_named("qa")
    with start_worker(detect(), sys.executable, folder.work / "encode", None) as worker:
        return encode(
            worker,
            task=task,
            source=task.source(str(demo.MODEL)),
            rows=sample(task.load(str(demo.DATASET), None).rows, rows),
            calibration=[],
            max_seq_length=MAX_SEQ_LENGTH,
            doc_stride=DOC_STRIDE,
            folder=folder,
        )


def errors(table: Table, of: Workload, every: int) -> tuple[list[float], list[float]]:
    """The relative errors of parts of every `every`th batch: by padded tokens, by operations."""
    assert of.facts.work is not None
    lengths = of.features.lengths
    bounds = Bounds(
        polynomial=of.facts.work, peaks={}, lengths=lengths, max_seq_length=MAX_SEQ_LENGTH
    )
    by_tokens, by_work = [], []
    for config, trial in table.trials.items():
        if trial.measurement is None:
            continue
        planned = plan(lengths, max_seq_length=MAX_SEQ_LENGTH, **config.only(POINT_KNOBS))
        tokens = [len(p.rows) * p.width for p in planned]
        work = bounds.work(config)
        for timed in trial.measurement.counted:
            own = batches_of_instance(len(planned), timed.instance, int(config["instances"]))
            seconds = timed.warm_batch_s
            place = part_of_pass(len(seconds), pass_s=every, max_s=1.0)
            if not len(seconds) == len(tokens[own]) >= LEAST_BATCHES:
                continue
            for found, weights in ((by_tokens, tokens[own]), (by_work, work[own])):
                estimate = sum(seconds[place]) * sum(weights) / sum(weights[place])
                found.append(estimate / sum(seconds) - 1)
    return by_tokens, by_work


def shown(found: Sequence[float]) -> str:
    absolute = [abs(error) for error in found]
    return (
        f"median {statistics.median(found):+.1%}, within {percentile(absolute, 95):.1%} in 95% "
        f"(root mean square {float(np.sqrt(np.mean(np.square(found)))):.1%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    for path in parser.parse_args().tables:
        table = Table.read(path)
        with tempfile.TemporaryDirectory() as scratch:
            folder = RunFolder(Path(scratch))
            folder.work.mkdir(parents=True)
            of = workload(int(table.header["rows"]), folder)
        for every in PARTS:
            by_tokens, by_work = errors(table, of, every)
            print(f"{path.name}: 1 batch in {every}, {len(by_tokens)} passes")
            print(f"  by padded tokens: {shown(by_tokens)}")
            print(f"  by operations:    {shown(by_work)}")


if __name__ == "__main__":
    main()
