"""The context of one search: everything that is fixed before its first trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.commands.search.launch_check import CHECK_LIMITS, CheckLimits
from autotune.commands.search.settings import Settings
from autotune.driver.forkserver import ForkServers
from autotune.driver.replies import Expected
from autotune.driver.runner import Inputs, ProcessRunner
from autotune.emit.launch_script import LAUNCH_RULE
from autotune.host import Host
from autotune.search.bounds import Bounds
from autotune.search.finals import FINALS_LIMITS, FinalsLimits
from autotune.search.objective import Objective
from autotune.search.split import SPLIT_LIMITS, SplitLimits
from autotune.shared.records import Config, StackFacts
from autotune.shared.stopping import StoppingRule
from autotune.space import Space
from autotune.store.folder import RunFolder
from autotune.tasks.workload import Workload, inputs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a search may take after its last trial. Tests pass shorter limits."""

    finals: FinalsLimits = FINALS_LIMITS
    split: SplitLimits = SPLIT_LIMITS
    launch: StoppingRule = LAUNCH_RULE
    """How long launch.sh measures."""
    check: CheckLimits = CHECK_LIMITS


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search. `Tuning` builds it before the first trial; every later step reads it."""

    settings: Settings
    objective: Objective
    folder: RunFolder
    host: Host
    stacks: Mapping[str, StackFacts]
    """Name of each stack -> what that stack can run on this host."""
    workload: Workload
    bounds: Bounds | None
    """The host's limit for this model; None where the limit could not be measured."""
    baseline: Config
    dynamic: Config
    """The baseline with dynamic padding."""
    reference: Config
    """What gives the answers of eager float32: the baseline with rows sorted by length, if padding
    does not change the model's answers."""
    space: Space
    manifest: Mapping[str, Any]
    pace: Pace
    announce: Callable[[str], None]
    """Tells the user one line of progress."""

    @property
    def inputs(self) -> Inputs:
        """The inputs of a worker without the reference outputs."""
        return inputs_of(self.folder, self.workload.source, self.host)

    @property
    def compared_inputs(self) -> Inputs:
        """The inputs of a worker that also compares its outputs with the reference's."""
        return replace(self.inputs, reference=str(self.folder.reference.resolve()))

    def runner(
        self, fork_servers: ForkServers, *, inputs: Inputs, expected: Expected, workdir: Path
    ) -> ProcessRunner:
        """Runs configurations over `inputs`, with this search's limits of time and memory."""
        return ProcessRunner(
            host=self.host,
            stacks=self.stacks,
            inputs=inputs,
            expected=expected,
            workdir=workdir,
            timeout_s=self.settings.trial_timeout_s,
            fork_servers=fork_servers,
            max_memory_bytes=self.settings.max_memory_bytes,
        )
