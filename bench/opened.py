"""A finished run, opened again for measuring: what the benchmarks on runs share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from autotune.accuracy import Gate, Reference
from autotune.folder import RunFolder
from autotune.host import detect
from autotune.parents import Parents
from autotune.records import Config, Measure, Measurement, ModelSource, StackFacts
from autotune.runner import Expected, Inputs, ProcessRunner, read_outputs
from autotune.search.objective import throughput
from autotune.space import Surroundings
from autotune.tasks import task_named
from autotune.worker_files import EncodedFeatures

VISIT = Measure(min_passes=2, max_passes=40, half_width=0.0, budget_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """A run's winner, its stacks, its gate, and a runner over its workload."""

    chosen: Config
    stacks: dict[str, StackFacts]
    runner: ProcessRunner
    gate: Gate
    reference: Reference
    where: Surroundings


def open_run(folder: RunFolder, work: Path, parents: Parents | None = None) -> OpenedRun:
    """Scratch files and prepared artefacts go below `work`."""
    manifest = folder.read_manifest()
    best = yaml.safe_load(folder.best.read_text(encoding="utf-8"))
    task = task_named(manifest["workload"]["task"]).with_labels(manifest["model"]["labels"])
    features = EncodedFeatures.load(folder.workload)
    rows = task.labelled(task.load(str(folder.data), None))
    expected = Expected(examples=len(rows), features=len(features.lengths), tokens=features.tokens)
    host = detect()
    known = {f.name for f in fields(StackFacts)}
    stacks: dict[str, Any] = {
        name: StackFacts(**{k: v for k, v in facts.items() if k in known})
        for name, facts in manifest["stacks"].items()
    }
    gate = Gate(task=task, rows=rows, features=features, max_drop=manifest["max_accuracy_drop"])
    return OpenedRun(
        chosen=Config.of(best["config"]),
        stacks=stacks,
        runner=ProcessRunner(
            host=host,
            stacks=stacks,
            inputs=Inputs(
                source=ModelSource(**best["model"]),
                features=str(folder.workload.resolve()),
                calibration=(
                    str(folder.calibration.resolve()) if folder.calibration.exists() else None
                ),
                instruction_sets=host.instruction_sets,
                cache=str(work / "cache"),
            ),
            expected=expected,
            workdir=work / "trial",
            timeout_s=900,
            parents=parents,
        ),
        gate=gate,
        reference=gate.reference(read_outputs(folder.reference, task.outputs, expected)),
        where=Surroundings(
            cores=host.cores,
            attentions=tuple(manifest["model"]["attentions"]),
            modes={},
            objective="throughput",
        ),
    )


def visit_in_turn(
    runner: ProcessRunner, configs: list[Config], rounds: int, rule: Measure = VISIT
) -> dict[Config, list[Measurement]]:
    """`rounds` visits to each, in processes kept side by side, every second round backwards."""
    runner.keep(configs)
    visits: dict[Config, list[Measurement]] = {config: [] for config in configs}
    for number in range(rounds):
        for config in configs if number % 2 == 0 else reversed(configs):
            outcome = runner.run(config, rule)
            assert outcome.measurement is not None, outcome.failure
            visits[config].append(outcome.measurement)
    runner.close()
    return visits


def speeds(visits: list[Measurement]) -> list[float]:
    """Examples a second of each visit."""
    return [throughput(measurement).median for measurement in visits]
