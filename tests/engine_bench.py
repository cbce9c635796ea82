"""The embedded model encoded once, and runners of real workers over it."""

from __future__ import annotations

import sys

from autotune import demo
from autotune.driver import stacks
from autotune.driver.runner import Inputs, ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import detect
from autotune.shared.records import StoppingRule
from autotune.space import Surroundings, complete
from autotune.store.folder import RunFolder
from autotune.tasks import task_named
from autotune.tasks.workload import encode, sample

TASK = task_named("qa")
HOST = detect()
SOURCE = TASK.source(str(demo.MODEL))
ONE_PASS = StoppingRule(min_passes=2, max_passes=2)


def config(**knobs):
    """The baseline with these knobs, and the defaults of those that they make active."""
    surroundings = Surroundings(
        cores=HOST.cores, attentions=("sdpa",), modes={}, objective="throughput"
    )
    return complete(surroundings, {"batch_size": 3, "padding": "longest", **knobs})


class Bench:
    """A workload of `rows` questions (0: all) in `folder`, and what this interpreter runs."""

    def __init__(self, folder, source=SOURCE, rows=12, fork_servers=None, **options):
        """Runners fork their workers if `fork_servers` is given."""
        self.folder = RunFolder(folder)
        self.fork_servers = fork_servers
        self.folder.work.mkdir(parents=True)
        self.stacks = stacks.examine({"default": sys.executable}, HOST, self.folder.work)
        with start_worker(HOST, sys.executable, self.folder.work) as worker:
            self.workload = encode(
                worker,
                task=TASK,
                source=source,
                rows=sample(TASK.load(str(demo.DATASET), None).rows, rows),
                calibration=sample(TASK.load(str(demo.CALIBRATION), None).rows, 8),
                folder=self.folder,
                **{"max_seq_length": 384, "doc_stride": 128, **options},
            )

    @property
    def inputs(self):
        return Inputs(
            source=self.workload.source,
            features=str(self.folder.workload.resolve()),
            calibration=str(self.folder.calibration.resolve()),
            instruction_sets=HOST.instruction_sets,
            cache=str(self.folder.cache.resolve()),
        )

    def runner(self, workdir, host=HOST, found=None, fresh=False, fork_servers=None, inputs=None):
        return ProcessRunner(
            host=host,
            stacks=found or self.stacks,
            inputs=inputs or self.inputs,
            expected=self.workload.expected,
            workdir=workdir,
            timeout_s=600,
            fork_servers=None if fresh else fork_servers or self.fork_servers,
        )
