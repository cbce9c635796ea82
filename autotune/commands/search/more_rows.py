"""Judge the accuracy of the winner on more rows than every configuration runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autotune.commands.search.context import Run
from autotune.driver.arrays import FEATURES_FILE, EncodedFeatures
from autotune.driver.forkserver import ForkServers
from autotune.driver.replies import Expected, read_outputs
from autotune.driver.runner import Outcome, ProcessRunner
from autotune.driver.start import start_worker
from autotune.search.objective import workload_s
from autotune.search.ranking import measured
from autotune.shared.axes import WIDTH
from autotune.shared.errors import InputError
from autotune.shared.records import Accuracy, Failure, Measurement, Trial
from autotune.shared.stopping import ANSWERS
from autotune.store.wire import WireError
from autotune.tasks.base import Row
from autotune.tasks.gate import Gate, Reference
from autotune.tasks.workload import encode_sets, sample

TIME_SHARE = 0.1
"""Most of the time budget that may be spent on it."""
TIME_WITHOUT_BUDGET_S = 60.0
MIN_MORE_ROWS = 1.25
"""It must be worth its time: at least this many times the rows that were run before."""
ENCODING_S = 5.0
"""About how many seconds it takes to start a process that encodes the rows."""
MARGIN = 1.1
"""Rows are assumed to take this many times as long as on average: nothing is warmed up."""
MAX_BYTES = 2**30
"""About the most bytes of the arrays of inputs that have no width, such as images."""


class MoreRowsJudge:
    """Runs the winner once over the rows of the search and `further` ones, and eager float32 over
    the further ones. Its answers on the others are known."""

    def __init__(self, run: Run, further: Sequence[Row], fork_servers: ForkServers) -> None:
        self._run = run
        self._further = further
        self._fork_servers = fork_servers
        self._reference: tuple[ProcessRunner, Gate, Reference] | None = None
        self._impossible = False  # the rows cannot be encoded, or eager float32 failed on them

    def expected_s(self, baseline: Trial, winner: Trial) -> float:
        """About how many seconds `judge` takes, 0 where there is no time for enough rows."""
        rows = self._rows_in_time(baseline, winner)
        if not rows:
            return 0.0
        reference_s, winner_s = _row_s(baseline, winner)
        further = rows - self._run.workload.expected.examples
        return _opening_s(baseline, winner) + further * reference_s + rows * winner_s

    def judge(
        self, baseline: Trial, winner: Trial
    ) -> tuple[Outcome, Accuracy | None, Failure | None]:
        """Run the winner on as many rows as there is time for, and compare it with eager float32.

        If these rows cannot be encoded, or if eager float32 fails on them, that says nothing about
        the winner: it keeps the accuracy that it has, and no winner is judged on more rows.
        """
        if self._reference is None and not self._impossible:
            count = self._rows_in_time(baseline, winner)
            self._run.announce(f"judging the winner on {count} rows")
            self._reference = self._prepared(count)
        if self._reference is None:
            return Outcome(), winner.accuracy, None
        runner, gate, reference = self._reference
        try:
            outcome = runner.run(winner.config, ANSWERS)
        finally:
            runner.close()
        if outcome.measurement is None:
            return outcome, None, outcome.failure
        accuracy = gate.judge(outcome.outputs, reference)
        return outcome, accuracy, gate.failure(accuracy, reference)

    def _rows_in_time(self, baseline: Trial, winner: Trial) -> int:
        """The number of rows to run, those of the search included; 0 where it is not worth it."""
        if self._impossible:
            return 0
        known = self._run.workload.expected.examples
        every = min(known + len(self._further), self._most_rows(known))
        budget = self._run.settings.limits.time_budget_s
        time_s = TIME_WITHOUT_BUDGET_S if budget is None else TIME_SHARE * budget
        time_s -= _opening_s(baseline, winner)
        reference_s, winner_s = _row_s(baseline, winner)
        rows = min(every, int((time_s + known * reference_s) / (reference_s + winner_s)))
        return rows if rows >= min(every, MIN_MORE_ROWS * known) and rows > known else 0

    def _most_rows(self, known: int) -> int:
        """The number of rows whose arrays take about MAX_BYTES, by those of the `known` rows.

        Inputs that have a width are small, and have no such limit.
        """
        if WIDTH in self._run.workload.task.input_axes:
            return sys.maxsize
        size = (self._run.folder.workload / FEATURES_FILE).stat().st_size
        return MAX_BYTES * known // max(size, 1)

    def _prepared(self, count: int) -> tuple[ProcessRunner, Gate, Reference] | None:
        """What `_prepare` returns. None, and a line for the user, if that fails."""
        try:
            prepared = self._prepare(count)
        except (InputError, WireError) as error:
            cause = str(error)
        else:
            if not isinstance(prepared, Outcome):
                return prepared
            assert prepared.failure is not None
            cause = f"eager float32 failed, {prepared.failure.kind}: {prepared.failure.detail}"
        self._impossible = True
        self._run.announce(f"the winner is not judged on more rows: {cause}")
        return None

    def _prepare(self, count: int) -> tuple[ProcessRunner, Gate, Reference] | Outcome:
        """Encode the rows, and run eager float32 on the further ones. Returns its outcome if that
        fails."""
        run, workload = self._run, self._run.workload
        chosen = sample(self._further, count - len(workload.rows))
        further = workload.task.with_model_labels(chosen)
        rows = [*workload.rows, *further]
        settings, work = run.settings, run.folder.work
        encoded, encoded_further = work / "judged-rows", work / "further-rows"
        with start_worker(
            run.host, sys.executable, work / "encode-judged", self._fork_servers
        ) as worker:
            _, features = encode_sets(
                worker,
                task=workload.task,
                source=workload.source,
                sets={encoded: rows, encoded_further: further},
                max_seq_length=settings.max_seq_length,
                doc_stride=settings.doc_stride,
            )
        eager = self._runner(encoded_further, further, EncodedFeatures.load(encoded_further))
        outcome = eager.run(run.reference, ANSWERS)
        eager.close()
        if outcome.measurement is None:
            return outcome
        known = read_outputs([run.folder.reference], workload.task.outputs, workload.expected)
        outputs = {name: np.concatenate([known[name], outcome.outputs[name]]) for name in known}
        gate = Gate(task=workload.task, rows=rows, features=features, rule=settings.gate_rule)
        return self._runner(encoded, rows, features), gate, gate.reference(outputs)

    def _runner(
        self, encoded: Path, rows: Sequence[Row], features: EncodedFeatures
    ) -> ProcessRunner:
        """A runner over `rows`, whose `features` are in the folder `encoded`."""
        run = self._run
        return run.runner(
            self._fork_servers,
            inputs=replace(run.inputs, features=str(encoded.resolve())),
            expected=Expected.of(rows, features),
            workdir=run.folder.work / f"{encoded.name}-judged",
        )


def _row_s(baseline: Trial, winner: Trial) -> tuple[float, float]:
    """About how many seconds a row takes in the reference, and in the winner."""
    base = measured(baseline)
    unpadded_share = base.tokens / base.padded_tokens
    return (
        MARGIN * unpadded_share * _seconds_a_row(base),
        MARGIN * _seconds_a_row(measured(winner)),
    )


def _seconds_a_row(measurement: Measurement) -> float:
    return workload_s(measurement) / measurement.examples


def _opening_s(baseline: Trial, winner: Trial) -> float:
    """About how many seconds it takes to encode rows and to open both sessions."""
    return ENCODING_S + sum(
        measured(trial).preparing_s + measured(trial).phases_s.get("warm_up", 0.0)
        for trial in (baseline, winner)
    )
