"""Opens a finished run again on this host; shared by the benchmarks that take a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.commands.promise.reopen import measurements, reopen
from autotune.driver import stacks
from autotune.driver.forkserver import ForkServers
from autotune.driver.runner import Outcome, ProcessRunner
from autotune.host import detect
from autotune.search.objective import throughput
from autotune.shared.records import Config, StackFacts
from autotune.shared.stopping import StoppingRule
from autotune.space import Surroundings
from autotune.store.folder import RunFolder
from autotune.tasks.gate import Gate, Reference

VISIT = StoppingRule(min_passes=2, max_passes=40, half_width=0.0, budget_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """A run's winner, its stacks, its gate, and a runner over its workload."""

    chosen: Config
    model_type: str
    stacks: dict[str, StackFacts]
    runner: ProcessRunner
    gate: Gate
    reference: Reference
    where: Surroundings


def open_run(folder: RunFolder, work: Path, fork_servers: ForkServers | None = None) -> OpenedRun:
    """The run in `folder`, opened here. Scratch files and prepared engines go below `work`."""
    run, host = reopen(folder), detect()
    found = stacks.examine(run.pythons, host, work)
    return OpenedRun(
        chosen=run.chosen,
        model_type=run.manifest["model"]["model_type"],
        stacks=found,
        runner=run.runner(host, found, work, fork_servers),
        gate=run.gate(),
        reference=run.reference(),
        where=stacks.surroundings(
            host,
            found,
            attentions=tuple(run.manifest["model"]["attentions"]),
            objective="throughput",
        ),
    )


def speeds(visits: Sequence[Outcome]) -> list[float]:
    """The median speed of each visit, in examples a second."""
    return [throughput(measurement).median for measurement in measurements(visits)]
