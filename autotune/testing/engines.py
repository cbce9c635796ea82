"""The suite that every engine passes: its answers are those of eager float32, on every batch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune import demo
from autotune.driver import stacks
from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.driver.replies import OutputArrays
from autotune.driver.runner import Inputs, ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import Host, detect
from autotune.shared.engines import engine_named
from autotune.shared.errors import InputError
from autotune.shared.instructions import has_vnni
from autotune.shared.objectives import DEFAULT
from autotune.shared.precisions import (
    BF16,
    BF16_MATMUL,
    FP32,
    INT8_DYNAMIC,
    INT8_STATIC,
    precision_named,
)
from autotune.shared.records import Config, ModelSource, StackFacts
from autotune.shared.stopping import StoppingRule
from autotune.space import Surroundings, Value, complete
from autotune.store.folder import RunFolder
from autotune.tasks import task_named
from autotune.tasks.workload import encode, inputs_of, sample

TIMEOUT_S = 600.0
TWO_PASSES = StoppingRule(min_passes=2, max_passes=2)
POINTS: tuple[dict[str, Value], ...] = (
    {"batch_size": 3, "padding": "longest"},
    {"batch_size": 1, "padding": "length_sorted"},
    {"batch_size": 5, "padding": "buckets", "bucket_step": 64},
    {"padding": "token_budget", "batch_tokens": 512},
)
"""Every engine is run with these points, one after the other in the same session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far logits of the embedded model may be from those of eager float32.

    Its logits span about 15. int8 may be far off on a token that is nobody's answer, but its median
    says that it is the same model. A precision that changes nothing was not applied: `least`.
    """

    largest: float
    median: float
    least: float = 0.0


LIMITS = {
    FP32.name: Limits(largest=1e-3, median=1e-4),
    BF16_MATMUL.name: Limits(largest=0.35, median=0.1),
    BF16.name: Limits(largest=0.35, median=0.1, least=1e-3),
    INT8_DYNAMIC.name: Limits(largest=8, median=1, least=1e-2),
    INT8_STATIC.name: Limits(largest=8, median=1, least=1e-2),
}


def baseline_with(host: Host, **knobs: Value) -> Config:
    """The baseline with these knobs, and the defaults of those that they make active."""
    surroundings = Surroundings(
        cores=host.cores, attentions=("sdpa",), modes={}, objective=DEFAULT.name
    )
    return complete(surroundings, {"batch_size": 3, "padding": "longest", **knobs})


class EngineBench:
    """Questions for the embedded model, encoded once, and what this interpreter runs."""

    def __init__(
        self,
        folder: Path,
        source: ModelSource | None = None,
        rows: int = 12,
        fork_servers: ForkServers | None = None,
        host: Host | None = None,
        max_seq_length: int = 384,
        doc_stride: int = 128,
    ) -> None:
        """`rows` questions (0: all) go to `folder`. `source` is another question-answering model.

        Runners fork their workers if `fork_servers` is given.
        """
        task = task_named("qa")
        self.folder = RunFolder(folder)
        self.host = host or detect()
        self.fork_servers = fork_servers
        self.folder.work.mkdir(parents=True)
        here = {"default": sys.executable}
        self.stacks = stacks.examine(here, self.host, self.folder.work)
        with start_worker(self.host, sys.executable, self.folder.work) as worker:
            self.workload = encode(
                worker,
                task=task,
                source=source or task.source(str(demo.MODEL)),
                rows=sample(task.load(str(demo.DATASET), None).rows, rows),
                calibration=sample(task.load(str(demo.CALIBRATION), None).rows, 8),
                folder=self.folder,
                max_seq_length=max_seq_length,
                doc_stride=doc_stride,
            )

    @property
    def inputs(self) -> Inputs:
        """What the workers are given. The engines' files are kept in the folder."""
        return inputs_of(self.folder, self.workload.source, self.host)

    def runner(
        self,
        workdir: Path,
        host: Host | None = None,
        found: Mapping[str, StackFacts] | None = None,
        fresh: bool = False,
        fork_servers: ForkServers | None = None,
        inputs: Inputs | None = None,
    ) -> ProcessRunner:
        """A runner of real workers. With `fresh` no worker is forked."""
        return ProcessRunner(
            host=host or self.host,
            stacks=found or self.stacks,
            inputs=inputs or self.inputs,
            expected=self.workload.expected,
            workdir=workdir,
            timeout_s=TIMEOUT_S,
            fork_servers=None if fresh else fork_servers or self.fork_servers,
        )

    def refusal(self, config: Config) -> str | None:
        """Why this host and interpreter cannot run `config`. None if they can."""
        return self.stacks["default"].refusal(config)


def check_outputs(
    bench: EngineBench,
    runner: ProcessRunner,
    reference: OutputArrays,
    knobs: Mapping[str, Value],
    limits: Limits | None = None,
) -> str | None:
    """Run `knobs` at every point and compare the outputs with those of eager float32.

    `reference` are these outputs. `limits` are those of the precision in LIMITS, unless given. The
    result is None; or the reason why a CPU without VNNI refuses int8. Raises AssertionError.
    """
    precision = precision_named(knobs["precision"])
    limits = limits or LIMITS[precision.name]
    for point in POINTS:
        outcome = runner.run(baseline_with(bench.host, **knobs, **point), TWO_PASSES)
        failed, int8 = outcome.failure, precision.product_type == "int8"
        if int8 and failed is not None and not has_vnni(bench.host.instruction_sets):
            assert failed.kind == "inaccurate", outcome.log
            return f"without VNNI: {failed.detail}"
        assert failed is None, f"{failed}\n{outcome.log}"
        measurement = outcome.measurement
        assert measurement is not None
        assert measurement.outputs_repeatable, f"two passes differ at {point}"
        assert measurement.effective["threads"] == bench.host.cores
        for name, expected in reference.items():
            apart = np.abs(outcome.outputs[name] - expected)
            assert np.median(apart) <= limits.median, (name, point)
            assert apart.max() <= limits.largest, (name, point)
            assert apart.max() >= limits.least, (name, point, "the precision was not applied")
    return None


def check_forked(bench: EngineBench, folder: Path, knobs: Mapping[str, Value]) -> None:
    """Assert that a forked worker gives the answers of a fresh one."""
    digests = []
    for fresh in (False, True):
        runner = bench.runner(folder / f"fresh-{fresh}", fresh=fresh)
        outcome = runner.run(baseline_with(bench.host, **knobs), TWO_PASSES)
        runner.close()
        assert outcome.measurement is not None, f"{outcome.failure}\n{outcome.log}"
        assert outcome.measurement.effective["forked"] is not fresh
        digests.append(outcome.measurement.outputs_digest)
    assert digests[0] == digests[1], "a forked worker gives other answers than a fresh one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One configuration of the suite. `reason` says why it cannot run here; None: it passed."""

    knobs: Mapping[str, Value]
    reason: str | None


def check_engine(
    name: str,
    *,
    folder: Path,
    settings: Sequence[Mapping[str, Value]] | None = None,
    limits: Mapping[str, Limits] | None = None,
    rows: int = 12,
) -> list[Checked]:
    """Run the suite on the engine `name`, and return what was checked.

    `folder` is for scratch files. `settings` are the engine knobs to run, each with a `precision`;
    by default every precision of the engine with its default options. `limits` are for precisions
    that LIMITS does not have. Raises AssertionError if the engine does not pass, InputError if it
    is unknown or if limits are missing.
    """
    engine = engine_named(name)
    wanted = settings or [{"precision": precision} for precision in engine.precision_names]
    known = {**LIMITS, **(limits or {})}
    for one in wanted:
        if one["precision"] not in known:
            raise InputError(f"pass limits for {one['precision']}, which autotune does not know")
    host = detect()
    found = []
    with ForkServers(folder / "parents", memory_bytes=host.memory_bytes) as fork_servers:
        bench = EngineBench(folder / "run", rows=rows, fork_servers=fork_servers, host=host)
        fork_servers.preload(modeling_modules(bench.workload.facts.model_type))
        reference = _reference(bench, folder / "reference")
        for number, one in enumerate(wanted):
            knobs: dict[str, Any] = {"mode": name, **one}
            reason = bench.refusal(baseline_with(host, **knobs))
            if reason is None:
                runner = bench.runner(folder / f"work-{number}")
                try:
                    limit = known[str(knobs["precision"])]
                    reason = check_outputs(bench, runner, reference, knobs, limit)
                finally:
                    runner.close()
                if reason is None:
                    check_forked(bench, folder / f"forked-{number}", knobs)
            found.append(Checked(knobs=knobs, reason=reason))
    return found


def _reference(bench: EngineBench, folder: Path) -> OutputArrays:
    """The outputs of eager float32."""
    runner = bench.runner(folder)
    outcome = runner.run(baseline_with(bench.host), TWO_PASSES)
    runner.close()
    assert outcome.failure is None, f"{outcome.failure}\n{outcome.log}"
    return outcome.outputs
