"""Measures every engine and precision on one model; prints speed, accuracy and verdict as Markdown.

    python bench/engines.py --model demo [--stack NAME=PYTHON ...] [--samples 194]
    python bench/engines.py --model DIR --head AutoModelForSequenceClassification --dataset F.jsonl
    python bench/engines.py --model random-bert-base

Each engine is measured at batch 8 and batch 1, with inputs sorted by length, on all cores. Its row
shows the better of the two. A model whose task has no scoring here is judged by how often its
largest logit is at the same place as eager float32's. The baseline is measured again at the end;
the last line says how much the host drifted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models import OUTPUTS, Agreement, RandomAgreement, random_bert_base

from autotune import demo
from autotune.driver import stacks
from autotune.driver.runner import Outcome, ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import detect
from autotune.search.objective import throughput
from autotune.shared.records import Config
from autotune.shared.stopping import StoppingRule
from autotune.space import Surroundings, baseline, complete
from autotune.space.knobs import describe
from autotune.store.folder import RunFolder
from autotune.tasks import task_named
from autotune.tasks.base import Task
from autotune.tasks.gate import Gate, GateRule
from autotune.tasks.workload import encode, inputs_of, sample

RULE = StoppingRule(min_passes=2, budget_s=4.0, patience_s=15.0)
SORTED = {"padding": "length_sorted"}
VARIANTS: dict[str, Sequence[dict[str, Any]]] = {
    "bf16": ({"bf16_method": "full"}, {"bf16_method": "autocast"}),
    "int8_dynamic": ({"int8_weights": "per_channel"}, {"int8_weights": "per_tensor"}),
    "int8_static": ({"int8_rest": "fp32"}, {"int8_rest": "bf16"}),
    "fp32": (
        {},
        {"linear": "onednn"},
        {"linear": "onednn_fused"},
        {"auto_kernel_selection": True},
    ),
}


def configs(found: dict[str, Any], cores: int) -> Iterator[Config]:
    """One configuration for each stack, mode, precision and variant that can run."""
    where = Surroundings(cores=cores, attentions=("sdpa",), modes={}, objective="throughput")
    for stack, facts in found.items():
        for mode, precisions in facts.modes.items():
            for precision, reason in precisions.items():
                if reason is not None:
                    continue
                engine = {"stack": stack, "mode": mode, "precision": precision, **SORTED}
                variants = [
                    config
                    for variant in VARIANTS.get(precision, ())
                    for config in [complete(where, {**engine, **variant})]
                    if variant.items() <= dict(config).items()
                ]
                yield from variants or [complete(where, engine)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--head", default="AutoModelForQuestionAnswering", choices=OUTPUTS)
    parser.add_argument("--dataset", default=str(demo.DATASET))
    parser.add_argument("--calibration", default=str(demo.CALIBRATION))
    parser.add_argument("--stack", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--samples", type=int, default=194)
    parser.add_argument("--only", default="", help="modes, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-engines-") as parent:
        run(options, Path(parent))


def run(options: argparse.Namespace, parent: Path) -> None:
    host = detect()
    folder = RunFolder(parent / "run")
    folder.work.mkdir(parents=True)
    found = stacks.examine(stacks.parse(options.stack), host, folder.work)
    name, path = options.model, options.model
    task: Task = task_named("qa")
    if name == "demo":
        path = str(demo.MODEL)
    elif name == "random-bert-base":
        path = random_bert_base(parent / "model")
        task = RandomAgreement(options.head)
    elif options.head != task.head:
        task = Agreement(options.head)
    with start_worker(host, sys.executable, folder.work / "encode") as worker:
        workload = encode(
            worker,
            task=task,
            source=task.source(path),
            rows=sample(task.load(options.dataset, None).rows, options.samples),
            calibration=sample(task.load(options.calibration, None).rows, 60),
            max_seq_length=384,
            doc_stride=128,
            folder=folder,
        )
    runner = ProcessRunner(
        host=host,
        stacks=found,
        inputs=inputs_of(folder, workload.source, host),
        expected=workload.expected,
        workdir=folder.work / "trial",
        timeout_s=900,
    )
    gate = Gate(
        task=task, rows=workload.rows, features=workload.features, rule=GateRule(max_drop=0.01)
    )
    where = Surroundings(cores=host.cores, attentions=("sdpa",), modes={}, objective="throughput")
    first = runner.run(baseline(where), RULE)
    assert first.failure is None, first.failure
    reference = gate.reference(first.outputs)
    before = rate(first)
    metrics = " | ".join(m.replace("_", " ") for m in task.metrics)
    print(
        f"| stack | engine | batch | examples/s | speedup | {metrics} | largest logit apart | "
        "verdict |",
        flush=True,
    )
    print("|---|---|---|---|---|" + "---|" * len(task.metrics) + "---|---|")
    print(
        f"| default | eager fp32, padded to 384 | 8 | {before:.1f} | 1.00x | "
        + " | ".join(f"{v:.2f}" for v in reference.metrics.values())
        + " | 0 | baseline |"
    )
    for config in configs(found, host.cores):
        if options.only and str(config["mode"]) not in options.only.split(","):
            continue
        print(row(config, runner, gate, reference, before), flush=True)
    after = rate(runner.run(baseline(where), RULE))
    runner.close()
    print(
        f"\nDrift of the host: the baseline, measured again at the end, ran at "
        f"{after / before:.2f} of its first speed."
    )


def rate(outcome: Outcome) -> float:
    assert outcome.measurement is not None, outcome.failure
    return throughput(outcome.measurement).median


def row(config: Config, runner: Any, gate: Gate, reference: Any, before: float) -> str:
    """The table row of an engine: the faster allowed of batch 8 and 1, else the faster of both."""
    tried: list[tuple[bool, float, int, Outcome]] = []
    failure: Any = None
    for batch in (8, 1):
        point = Config.of({**config, "batch_size": batch})
        outcome = runner.run(point, RULE)
        failure = outcome.failure
        if failure is not None:
            break
        allowed = gate.judge(outcome.outputs, reference).allowed
        tried.append((allowed, rate(outcome), batch, outcome))
    hidden = {"stack", "threads", "padding", "batch_size"}
    shown = Config.of({k: v for k, v in dict(config).items() if k not in hidden})
    head = f"| {config['stack']} | {describe(shown)} |"
    if not tried:
        words = " ".join(failure.detail.split())[:120].replace("|", "/")
        blanks = "  |" * (5 + len(reference.metrics) - 1)
        return f"{head}{blanks} {failure.kind}: {words} |"
    allowed, speed, batch, outcome = max(tried, key=lambda one: one[:2])
    accuracy = gate.judge(outcome.outputs, reference)
    scores = " | ".join(f"{v:.2f}" for v in accuracy.metrics.values())
    return (
        f"{head} {batch} | {speed:.1f} | {speed / before:.2f}x | {scores} | "
        f"{accuracy.max_abs_logit_difference:.2g} | {'allowed' if allowed else 'inaccurate'} |"
    )


if __name__ == "__main__":
    main()
