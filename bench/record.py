"""Measures a whole space exhaustively into a table for `bench/replay.py`.

    python bench/record.py --space bench/tables/qa-throughput.yaml --work DIR \\
        --output bench/tables/qa-throughput.jsonl.gz [--objective latency] [--samples 32]

Takes an hour or more. It can be stopped and started again with the same --work at any time.
Sessions are measured in random order, so that a host that drifts favours no engine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from models import RandomAgreement, random_bert_base
from recorded import Table

from autotune import demo
from autotune.driver import stacks
from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.driver.runner import SESSION_KNOBS, Outcome, ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import detect
from autotune.shared.records import Config, Failure, Trial
from autotune.shared.stopping import StoppingRule
from autotune.space import Space, baseline, compile_space, load_space
from autotune.store.folder import RunFolder
from autotune.store.journal import Journal
from autotune.tasks import task_named
from autotune.tasks.base import Task
from autotune.tasks.gate import Gate, GateRule, Reference
from autotune.tasks.workload import encode, inputs_of, sample

RULE = StoppingRule(min_passes=1, max_passes=6, half_width=0.02, budget_s=0.8, patience_s=20.0)
"""Slow configurations get one pass: a table needs the exact order only among the fast ones."""
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", type=Path, required=True)
    parser.add_argument("--objective", default="throughput")
    parser.add_argument("--model", default="demo", choices=("demo", "random-bert-base"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--max-seq-length", type=int, default=384)
    parser.add_argument("--work", type=Path, required=True, help="folder for the work done so far")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    host = detect()
    folder = RunFolder(options.work)
    folder.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder.trials)
    found = stacks.examine(stacks.parse([]), host, folder.work)
    task: Task = task_named("qa")
    model = str(demo.MODEL)
    if options.model == "random-bert-base":
        task = RandomAgreement("AutoModelForQuestionAnswering")
        model = str(options.work / "model")
        if not (options.work / "model").exists():
            random_bert_base(options.work / "model")
    with ForkServers(folder.work / "parents", memory_bytes=host.memory_bytes) as fork_servers:
        with start_worker(host, sys.executable, folder.work / "encode", fork_servers) as worker:
            workload = encode(
                worker,
                task=task,
                source=task.source(model),
                rows=sample(task.load(str(demo.DATASET), None).rows, options.samples),
                calibration=sample(task.load(str(demo.CALIBRATION), None).rows, 60),
                max_seq_length=options.max_seq_length,
                doc_stride=min(128, options.max_seq_length // 3),
                folder=folder,
            )
        fork_servers.preload(modeling_modules(workload.facts.model_type))
        where = stacks.surroundings(
            host, found, attentions=workload.facts.attentions, objective=options.objective
        )
        space = compile_space(load_space(options.space), where)
        runner = ProcessRunner(
            host=host,
            stacks=found,
            inputs=inputs_of(folder, workload.source, host),
            expected=workload.expected,
            workdir=folder.work / "trial",
            timeout_s=900,
            fork_servers=fork_servers,
        )
        gate = Gate(
            task=task, rows=workload.rows, features=workload.features, rule=GateRule(max_drop=0.01)
        )
        record(baseline(where), space, runner, gate, journal)
        runner.close()
    wanted = [baseline(where), *in_order(space)]
    trials = {trial.config: trial for trial in journal.trials}
    Table(
        header={
            "space": options.space.name,
            "objective": options.objective,
            "model": options.model,
            "rows": len(workload.rows),
            "cores": host.cores,
            "attentions": list(workload.facts.attentions),
            "modes": {name: dict(facts.modes) for name, facts in found.items()},
            "host": host.fingerprint(),
            "versions": dict(found["default"].versions),
        },
        trials={config: trials[config] for config in dict.fromkeys(wanted)},
    ).write(options.output)


def in_order(space: Space) -> Iterator[Config]:
    """Every allowed configuration: sessions in random order, the points of each together."""
    sessions: dict[Config, list[Config]] = {}
    for config in space.configs():
        sessions.setdefault(config.only(SESSION_KNOBS), []).append(config)
    order = list(sessions)
    random.Random(SEED).shuffle(order)
    for session in order:
        yield from sessions[session]


def record(
    first: Config, space: Space, runner: ProcessRunner, gate: Gate, journal: Journal
) -> None:
    outcome = runner.run(first, RULE)
    assert outcome.failure is None, outcome.failure
    reference = gate.reference(outcome.outputs)
    done = {trial.config for trial in journal.trials}
    if first not in done:
        journal.append(trial_of(first, outcome, gate, reference, 0, 0.0))
    configs = [config for config in in_order(space) if config != first]
    unusable: dict[Config, Failure] = {
        t.config.only(SESSION_KNOBS): t.failure
        for t in journal.trials
        if t.failure is not None and t.failure.holds_for_session
    }
    start, count = time.monotonic(), 0
    for number, config in enumerate(configs, start=1):
        if config in done:
            continue
        count += 1
        began = time.monotonic()
        session = config.only(SESSION_KNOBS)
        known = unusable.get(session)
        outcome = Outcome(failure=known) if known else runner.run(config, RULE)
        trial = trial_of(config, outcome, gate, reference, number, time.monotonic() - began)
        journal.append(trial)
        if trial.failure is not None and trial.failure.holds_for_session:
            unusable[session] = trial.failure
        if count % 20 == 0:
            each = (time.monotonic() - start) / count
            left = (len(configs) - number) * each / 60
            print(f"{number} of {len(configs)}, {each:.1f} s each, {left:.0f} min left", flush=True)


def trial_of(
    config: Config,
    outcome: Outcome,
    gate: Gate,
    reference: Reference,
    number: int,
    duration_s: float,
) -> Trial:
    accuracy, failure = None, outcome.failure
    if outcome.measurement is not None:
        accuracy = gate.judge(outcome.outputs, reference)
        failure = gate.failure(accuracy, reference)
    return Trial(
        number=number,
        origin="recorded",
        config=config,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(duration_s, 3),
        measurement=replace(outcome.measurement, effective={}) if outcome.measurement else None,
        accuracy=accuracy,
        failure=failure,
        log=outcome.log,
    )


if __name__ == "__main__":
    main()
