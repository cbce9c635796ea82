"""Open a finished run to measure it again: its best configuration, workload and gate.

`score` and `verify` build on it. `commands.rebuild` reads trials instead, and measures nothing.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from autotune.commands.search.settings import resolve_model
from autotune.driver.arrays import EncodedFeatures
from autotune.driver.channel import WorkerFailed
from autotune.driver.forkserver import ForkServers
from autotune.driver.replies import Expected, read_outputs
from autotune.driver.runner import Outcome, ProcessRunner, Runner
from autotune.driver.start import start_worker
from autotune.host import Host
from autotune.search.finals import VISITS_PER_PROCESS
from autotune.search.objective import Objective, objective_named
from autotune.shared.errors import ModelError, ResumeError
from autotune.shared.records import (
    Config,
    Failure,
    Measurement,
    ModelSource,
    StackFacts,
    to_jsonable,
)
from autotune.shared.stats import Interval, shuffled
from autotune.shared.stopping import StoppingRule
from autotune.space import knobs
from autotune.store.folder import RunFolder, folder_of
from autotune.store.wire import WireError, parse
from autotune.tasks import task_named
from autotune.tasks.base import SINGLE_LABEL, Row, Task
from autotune.tasks.gate import Gate, GateRule, Reference
from autotune.tasks.workload import inputs_of, kept_by

TIMEOUT_S = 900.0
DIGEST_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run's folder as values. `best` is best.yaml; `promised` its objective's interval."""

    folder: RunFolder
    manifest: Mapping[str, Any]
    best: Mapping[str, Any]
    objective: Objective
    promised: Interval
    task: Task
    source: ModelSource
    rows: list[Row]
    features: EncodedFeatures

    @property
    def chosen(self) -> Config:
        return Config.of(self.best["config"])

    @property
    def baseline(self) -> Config:
        return Config.of(self.manifest["baseline"])

    @property
    def pythons(self) -> dict[str, str]:
        """Stack -> interpreter, of those that the run searched."""
        return {name: stack["python"] for name, stack in self.manifest["stacks"].items()}

    @property
    def expected(self) -> Expected:
        return Expected.of(self.rows, self.features)

    def gate(self) -> Gate:
        return Gate(
            task=self.task,
            rows=self.rows,
            features=self.features,
            rule=GateRule(
                max_drop=self.manifest["max_accuracy_drop"],
                accept_degenerate=self.manifest["settings"].get("accept_degenerate", True),
            ),
        )

    def reference(self) -> Reference:
        """The outputs of eager float32. Raises ResumeError if they are gone."""
        try:
            outputs = read_outputs([self.folder.reference], self.task.outputs, self.expected)
        except WireError as error:
            raise ResumeError(f"{self.folder.path} is damaged: {error}") from error
        return self.gate().reference(outputs)

    def runner(
        self,
        host: Host,
        stacks: Mapping[str, StackFacts],
        work: Path,
        fork_servers: ForkServers | None = None,
    ) -> ProcessRunner:
        """A runner whose scratch files, and engines that the run did not keep, are below `work`."""
        return ProcessRunner(
            host=host,
            stacks=stacks,
            inputs=inputs_of(
                self.folder,
                self.source,
                host,
                cache=work / "cache",
                kept=kept_by(self.folder, str(self.chosen["stack"])),
            ),
            expected=self.expected,
            workdir=work / "trial",
            timeout_s=TIMEOUT_S,
            fork_servers=fork_servers,
        )


def reopen(folder: RunFolder, model: str | None = None) -> FinishedRun:
    """The run in `folder`. Raises ResumeError if it is unfinished or damaged.

    `model` says where the run's model is now, if not in the place that best.yaml names. Raises
    ModelError if there is none.
    """
    manifest = folder.read_manifest()
    moved = None if model is None else resolve_model(model)
    try:
        best = yaml.safe_load(folder.best.read_text(encoding="utf-8"))
        known = manifest["model"]
        source = parse(ModelSource, best["model"])
        data = task_named(manifest["workload"]["task"]).load(str(folder.data.resolve()), None)
        task = data.task.for_model(known["labels"], known.get("problem", SINGLE_LABEL))
        promise = best["promise"]
        return FinishedRun(
            folder=folder,
            manifest=manifest,
            best=best,
            objective=objective_named(str(promise["objective"])),
            promised=Interval(**{f.name: promise[f.name] for f in fields(Interval)}),
            task=task,
            source=source if moved is None else replace(source, path=moved),
            rows=task.with_model_labels(data.rows),
            features=EncodedFeatures.load(folder.workload),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"{folder.path} holds no finished run: {error}") from error


def reopen_with(path: Path, model: str | None, host: Host) -> FinishedRun:
    """The run at `path` (its folder or best.yaml), for measuring it with the model at `model`.

    None stands for the place that best.yaml names. Raises ResumeError and ModelError as `reopen`
    does, and ModelError if another model is at `model`: the run's kept engine would answer for it.
    """
    run = reopen(folder_of(path), model)
    if model is not None:
        with tempfile.TemporaryDirectory(prefix="autotune-digest-") as work:
            cause = model_changed(run, host, str(run.best["stack"]["python"]), Path(work))
        if cause is not None:
            raise ModelError(f"--model {model}: {cause}")
    return run


def model_changed(run: FinishedRun, host: Host, python: str, work: Path) -> str | None:
    """Why the model is not the one that was searched; None if it is. `python` reads its files."""
    with start_worker(host, python, work / "digest") as worker:
        try:
            digest = worker.request(
                "digest", {"source": to_jsonable(run.source)}, timeout_s=DIGEST_TIMEOUT_S
            )
        except WorkerFailed as failed:
            return f"the model cannot be read: {failed.failure.detail}"
    if digest != run.manifest["model"]["digest"]:
        return f"the files of the model {run.source.path} have changed since the run was made"
    return None


def visit_in_turn(
    runner: Runner, configs: Sequence[Config], rounds: int, rule: StoppingRule
) -> dict[Config, list[Outcome]]:
    """`rounds` visits of each configuration, in turn; each round has its own order.

    As in the finals, fresh processes take over after VISITS_PER_PROCESS rounds. Raises VisitFailed
    with the first configuration that cannot be measured.
    """
    visits: dict[Config, list[Outcome]] = {config: [] for config in configs}
    rng = random.Random(0)
    try:
        for number in range(rounds):
            if number % VISITS_PER_PROCESS == 0:
                runner.close()
                runner.keep_open(configs)
            for config in shuffled(configs, rng):
                outcome = runner.run(config, rule)
                if outcome.failure is not None:
                    raise VisitFailed(config, outcome.failure)
                visits[config].append(outcome)
    finally:
        runner.close()
    return visits


def measurements(visits: Sequence[Outcome]) -> list[Measurement]:
    """The measurements of visits that succeeded."""
    return [o.measurement for o in visits if o.measurement is not None]


class VisitFailed(Exception):
    """A configuration that could not be measured, and why."""

    def __init__(self, config: Config, failure: Failure) -> None:
        super().__init__(f"{knobs.describe(config)}: {failure.kind}: {failure.detail}")
