"""Recorded tables: spaces measured once, on which search strategies are compared.

A table is a gzipped file of JSON lines: a header, then one trial for each configuration of a
space, failures included, with its raw samples. `ReplayRunner` serves a table in place of a host.
Its own clock counts the seconds that each run would have taken.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.driver.runner import SESSION_KNOBS, Outcome
from autotune.shared.records import Accuracy, Config, Failure, Measurement, Pass, Trial, dumps
from autotune.shared.stopping import StoppingRule
from autotune.store.wire import parse_trial
from autotune.tasks.gate import Reference

SECONDS_DECIMALS = 7
"""Decimal places of the recorded seconds: the resolution of the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`header` describes the space, model and host; `trials` maps each configuration to its
    trial, the baseline first."""

    header: Mapping[str, Any]
    trials: Mapping[Config, Trial]

    @property
    def baseline(self) -> Config:
        return next(iter(self.trials))

    @classmethod
    def read(cls, path: Path) -> Table:
        with gzip.open(path, "rb") as file:
            header = json.loads(file.readline())
            trials = [parse_trial(line) for line in file]
        return cls(header=header, trials={trial.config: trial for trial in trials})

    def write(self, path: Path) -> None:
        """Write the table to `path`; equal tables give equal bytes."""
        lines = [json.dumps(self.header, sort_keys=True)]
        lines += [dumps(_rounded(trial)) for trial in self.trials.values()]
        path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


def _rounded(trial: Trial) -> Trial:
    if trial.measurement is None:
        return replace(trial, log="")
    passes = tuple(
        replace(p, batch_s=tuple(round(s, SECONDS_DECIMALS) for s in p.batch_s))
        for p in trial.measurement.passes
    )
    return replace(trial, log="", measurement=replace(trial.measurement, passes=passes))


class ReplayRunner:
    """Serves a table as a runner. `clock` returns the seconds that its runs would have taken.

    The outputs of a configuration are its place in the table, by which `ReplayGate` finds it.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._place = {config: place for place, config in enumerate(table.trials)}
        self._open: Config | None = None
        self._kept: frozenset[Config] = frozenset()
        self._now = 0.0
        self.ran: list[Config] = []
        self.times: list[float] = []  # the clock after each

    def clock(self) -> float:
        return self._now

    def keep_open(self, configs: Sequence[Config]) -> None:
        self._kept = frozenset(config.only(SESSION_KNOBS) for config in configs)

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        """A configuration that was not recorded fails, and costs nothing."""
        if config not in self._table.trials:
            return Outcome(failure=Failure(kind="crash", detail="it was not recorded"))
        if rule.rung == "rest":
            outcome = self._rest(config)
            self.times[-1] = self._now
            return outcome
        outcome = self._run(config, first=rule.rung == "first")
        self.ran.append(config)
        self.times.append(self._now)
        return outcome

    def _run(self, config: Config, first: bool) -> Outcome:
        trial = self._table.trials[config]
        session = config.only(SESSION_KNOBS)
        if trial.measurement is None:
            self._now += trial.duration_s
            self._open = None
            return Outcome(failure=trial.failure)
        if self._open != session and session not in self._kept:
            self._now += trial.measurement.preparing_s
        self._open = session
        measurement = trial.measurement
        if first:
            measurement = _with(measurement, _split(measurement)[0])
        phases = measurement.phases_s
        self._now += phases["warm_up"] + phases["measure"]
        outputs = {"place": np.array([self._place[config]], np.float32)}
        return Outcome(measurement=measurement, outputs=outputs)

    def _rest(self, config: Config) -> Outcome:
        """The passes after the first; the first pass again if no other was recorded."""
        measurement = self._table.trials[config].measurement
        assert measurement is not None
        firsts, others = _split(measurement)
        again = _with(measurement, others or firsts)
        self._now += again.phases_s["measure"]
        return Outcome(measurement=replace(again, phases_s={**again.phases_s, "warm_up": 0.0}))

    def close(self) -> None:
        self._open = None
        self._kept = frozenset()


def _split(measurement: Measurement) -> tuple[list[Pass], list[Pass]]:
    """The first pass of each instance, and the others."""
    firsts: dict[int, Pass] = {}
    others = []
    for one in measurement.passes:
        if one.instance in firsts:
            others.append(one)
        else:
            firsts[one.instance] = one
    return list(firsts.values()), others


def _with(measurement: Measurement, passes: Sequence[Pass]) -> Measurement:
    """`measurement` with `passes` only; its measuring time is reduced to their share."""
    taken = sum(p.total_s for p in passes) / sum(p.total_s for p in measurement.passes)
    phases = {**measurement.phases_s, "measure": taken * measurement.phases_s["measure"]}
    return replace(measurement, passes=tuple(passes), phases_s=phases)


class ReplayGate:
    """Gives the judgements of accuracy that the table recorded."""

    def __init__(self, table: Table) -> None:
        self._trials = list(table.trials.values())

    def reference(self, outputs: Mapping[str, Any]) -> Reference:
        return Reference(outputs=outputs, predictions=(), metrics={})

    def judge(self, outputs: Mapping[str, Any], reference: Reference) -> Accuracy:
        accuracy = self._trials[int(outputs["place"][0])].accuracy
        assert accuracy is not None
        return accuracy

    def failure(self, accuracy: Accuracy, reference: Reference) -> Failure | None:
        if accuracy.allowed:
            return None
        return Failure(kind="inaccurate", detail=f"a loss of {accuracy.relative_drop:.1%}")

    def unproven(self, accuracy: Accuracy) -> Failure | None:
        return None


class NoReferences:
    """Keeps no outputs: a replay is never resumed."""

    def save(self, outcome: Outcome) -> None: ...

    def load(self) -> Reference | None:
        return None
