"""The configuration a search chose, against each engine alone at its own best point.

    python bench/against.py reports/RUN [--rounds 5]

Each engine of ENGINES is given every point of POINTS; its best one that the gate allows then
runs in turn with the run's best configuration, in processes kept side by side. Prints, for
each engine, how many times faster the search's choice was: the median over rounds and its
interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from autotune.accuracy import Gate
from autotune.folder import RunFolder
from autotune.host import detect
from autotune.knobs import describe
from autotune.records import Config, Measure, ModelSource, StackFacts
from autotune.runner import Expected, Inputs, ProcessRunner, read_outputs
from autotune.search.objective import throughput
from autotune.space import Surroundings, complete
from autotune.stats import median_interval
from autotune.tasks import task_named
from autotune.worker_files import EncodedFeatures

ENGINES: tuple[dict[str, Any], ...] = (
    {"mode": "openvino", "precision": "int8_static", "int8_rest": "bf16"},
    {"mode": "openvino", "precision": "bf16"},
    {"mode": "onnxruntime", "precision": "int8_dynamic"},
    {"mode": "inductor", "precision": "bf16", "bf16_method": "full"},
    {"mode": "ipex_jit", "precision": "int8_static", "int8_rest": "bf16"},
    {"mode": "ipex_jit", "precision": "bf16"},
    {"mode": "jit", "precision": "int8_dynamic"},
)
POINTS: tuple[dict[str, Any], ...] = (
    *({"padding": "length_sorted", "batch_size": size} for size in (1, 2, 4, 8, 16)),
    *({"padding": "token_budget", "batch_tokens": tokens} for tokens in (512, 1024, 2048)),
)
QUICK = Measure(min_passes=1, half_width=0.0, budget_s=2.0, patience_s=10.0)
VISIT = Measure(min_passes=2, max_passes=40, half_width=0.0, budget_s=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-against-") as work:
        against(RunFolder(options.run), options.rounds, Path(work))


def against(folder: RunFolder, rounds: int, work: Path) -> None:
    manifest = folder.read_manifest()
    best = yaml.safe_load(folder.best.read_text(encoding="utf-8"))
    chosen = Config.of(best["config"])
    task = task_named(manifest["workload"]["task"])
    features = EncodedFeatures.load(folder.workload)
    rows = task.load(str(folder.data), None)
    expected = Expected(examples=len(rows), features=len(features.lengths), tokens=features.tokens)
    host = detect()
    known = {f.name for f in fields(StackFacts)}
    stacks = {
        name: StackFacts(**{k: v for k, v in facts.items() if k in known})
        for name, facts in manifest["stacks"].items()
    }
    runner = ProcessRunner(
        host=host,
        stacks=stacks,
        inputs=Inputs(
            source=ModelSource(**best["model"]),
            features=str(folder.workload.resolve()),
            calibration=str(folder.calibration.resolve()) if folder.calibration.exists() else None,
            instruction_sets=host.instruction_sets,
            cache=str(work / "cache"),
        ),
        expected=expected,
        workdir=work / "trial",
        timeout_s=900,
    )
    gate = Gate(task=task, rows=rows, features=features, max_drop=manifest["max_accuracy_drop"])
    reference = gate.reference(read_outputs(folder.reference, task.outputs, expected))
    where = Surroundings(
        cores=host.cores,
        attentions=tuple(manifest["model"]["attentions"]),
        modes={},
        objective="throughput",
    )

    candidates: list[Config] = []
    for stack, facts in stacks.items():
        for engine in ENGINES:
            if facts.modes[engine["mode"]].get(engine["precision"]) is not None:
                continue
            tried: list[tuple[bool, float, Config]] = []
            for point in POINTS:
                tried_config = complete(where, {"stack": stack, **engine, **point})
                outcome = runner.run(tried_config, QUICK)
                if outcome.measurement is None:
                    print(f"{describe(tried_config)}: {outcome.failure}", flush=True)
                    break
                allowed = gate.judge(outcome.outputs, reference).allowed
                tried.append((allowed, throughput(outcome.measurement).median, tried_config))
            if tried:
                allowed, speed, own = max(tried, key=lambda one: one[:2])
                verdict = "allowed" if allowed else "inaccurate at every point"
                print(f"{speed:7.1f}/s {describe(own)}: {verdict}", flush=True)
                if allowed:
                    candidates.append(own)
    runner.close()
    everyone = [chosen, *(c for c in candidates if c != chosen)]
    runner.keep(everyone)
    speeds: dict[Config, list[float]] = {c: [] for c in everyone}
    for number in range(rounds):
        for one in everyone if number % 2 == 0 else reversed(everyone):
            measurement = runner.run(one, VISIT).measurement
            assert measurement is not None
            speeds[one].append(throughput(measurement).median)
    runner.close()
    print(f"\nchosen: {describe(chosen)}, {median_interval(speeds[chosen]).median:.1f}/s")
    for one in everyone[1:]:
        pairs = zip(speeds[chosen], speeds[one], strict=True)
        gain = median_interval([own / other for own, other in pairs])
        print(
            json.dumps(
                {
                    "against": describe(one),
                    "per_s": round(median_interval(speeds[one]).median, 1),
                    "ratio": round(gain.median, 3),
                    "low": round(gain.low, 3),
                    "high": round(gain.high, 3),
                }
            )
        )


if __name__ == "__main__":
    main()
