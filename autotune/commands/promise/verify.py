"""`autotune verify`: measure best and baseline again, in turn, and judge the promise.

Unlike `score` it measures the baseline too, so that it can judge the speedup.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.commands.promise.differences import differences
from autotune.commands.promise.reopen import (
    FinishedRun,
    VisitFailed,
    measurements,
    model_changed,
    reopen,
    visit_in_turn,
)
from autotune.driver import stacks
from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.driver.replies import OutputArrays
from autotune.driver.runner import Runner
from autotune.host import Host, detect
from autotune.report.build import accuracy_entry
from autotune.report.text import judged_words
from autotune.search.finals import VISIT_RULE, VISITS_PER_PROCESS, processes
from autotune.search.objective import objective_named
from autotune.search.rates import for_objective
from autotune.shared.errors import ModelError, StackError
from autotune.shared.records import Config, StackFacts, to_jsonable
from autotune.shared.stats import Interval, gain_interval, median_interval, process_spread
from autotune.shared.stopping import ONE_PASS, StoppingRule
from autotune.space import knobs
from autotune.store.folder import folder_of

ROUNDS = 12
MIN_SHARE_OF_PROMISE = 0.8
"""Default minimum speedup, as a share of the promised speedup."""
BASELINE_MAX_RATIO = 1.5
"""If the baseline is this many times slower or faster than before, the speedups do not compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The outcome. The promise holds if `causes` is empty.

    `differences` of the host and the stack are harmless if it holds. `objective` is a name.
    """

    objective: str
    causes: tuple[str, ...]
    differences: tuple[str, ...]
    minimum: float
    promised_speedup: float
    speedup: Interval | None = None
    best: Interval | None = None
    baseline: Interval | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, Any] | None = None  # as in report.json; None: not measured
    max_accuracy_drop: float | None = None  # the limit of the run's gate

    @property
    def holds(self) -> bool:
        return not self.causes

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = to_jsonable(self)
        return {"holds": self.holds, **found}


def verify(
    path: Path,
    *,
    min_speedup: float | None,
    model: str | None = None,
    rounds: int = ROUNDS,
    visit: StoppingRule = VISIT_RULE,
) -> Verified:
    """Measure the run's best configuration against its baseline again, in turn.

    `path` is best.yaml or its folder, `model` where the model is now, if not where best.yaml says.
    Raises ResumeError where `path` holds no finished run, ModelError where `model` is none or
    another one.
    """
    run, host = reopen(folder_of(path), model), detect()
    minimum = min_speedup
    if minimum is None:
        minimum = MIN_SHARE_OF_PROMISE * float(run.best["promise"]["speedup"])
    with tempfile.TemporaryDirectory(prefix="autotune-verify-") as temporary:
        work = Path(temporary)
        try:
            found = stacks.examine(run.pythons, host, work)
            changed = model_changed(run, host, found[str(run.chosen["stack"])].python, work)
        except StackError as error:
            return _without_measuring(run, host, {}, minimum, str(error))
        if changed is not None and model is not None:
            raise ModelError(f"--model {model}: {changed}")
        cause = changed or found[str(run.chosen["stack"])].refusal(run.chosen)
        if cause is not None:
            return _without_measuring(run, host, found, minimum, cause)
        with ForkServers(work / "parents", memory_bytes=host.memory_bytes) as fork_servers:
            fork_servers.preload(modeling_modules(run.manifest["model"]["model_type"]))
            inner = run.runner(host, found, work, fork_servers)
            runner = for_objective(run.objective, inner, run.expected.features)
            return measure_again(
                run,
                runner,
                changes_known(run, host, found),
                minimum=minimum,
                rounds=rounds,
                visit=visit,
            )


def _without_measuring(
    run: FinishedRun, host: Host, found: Mapping[str, StackFacts], minimum: float, cause: str
) -> Verified:
    return Verified(
        objective=run.objective.name,
        causes=(cause,),
        differences=tuple(changes_known(run, host, found)),
        minimum=minimum,
        promised_speedup=float(run.best["promise"]["speedup"]),
    )


def changes_known(run: FinishedRun, host: Host, found: Mapping[str, StackFacts]) -> list[str]:
    """What has changed since the run; an unknown stack counts as unchanged."""
    stack = found.get(str(run.chosen["stack"]))
    then = {name: v for name, v in run.best["stack"].items() if name != "python"}
    return differences(run.best, host, then if stack is None else stack.versions)


def measure_again(
    run: FinishedRun,
    runner: Runner,
    changes: list[str],
    *,
    minimum: float,
    rounds: int,
    visit: StoppingRule = VISIT_RULE,
) -> Verified:
    """Measure best and baseline in turn and judge them against the promise."""
    promise = run.best["promise"]
    objective, gate, reference = run.objective, run.gate(), run.reference()
    base, best = run.baseline, run.chosen
    verified = Verified(
        objective=objective.name,
        causes=(),
        differences=tuple(changes),
        minimum=minimum,
        promised_speedup=float(promise["speedup"]),
    )
    try:
        visits = visit_in_turn(runner, list(dict.fromkeys([base, best])), rounds, visit)
        answers = visits[best][-1].outputs or whole_pass(runner, best)
    except VisitFailed as failed:
        return replace(verified, causes=(str(failed),))
    measured = {config: measurements(found) for config, found in visits.items()}
    pairs = zip(measured[best], measured[base], strict=True)
    ratios = [objective.ratio(one, other) for one, other in pairs]
    values = {config: [objective.value(one) for one in found] for config, found in measured.items()}
    spread = process_spread(list(values.values()), VISITS_PER_PROCESS)
    speedup = gain_interval(ratios, processes(len(ratios)), spread)
    accuracy = gate.judge(answers, reference)
    speeds = {config: median_interval(values[config]) for config in values}
    causes = []
    inaccurate = gate.failure(accuracy, reference)
    if inaccurate is not None:
        causes.append(f"{knobs.describe(best)} is no longer right: {inaccurate.detail}")
    if speedup.median < minimum:
        causes.append(
            f"{knobs.describe(best)} {objective.verb} {speedup.median:.2f}x {objective.compared} "
            f"the baseline ({speedup.low:.2f} to {speedup.high:.2f}), "
            f"at least {minimum:.2f}x is asked for"
        )
    then = promise.get("baseline")
    if then is not None:
        times = speeds[base].median / float(then)
        if not 1 / BASELINE_MAX_RATIO <= times <= BASELINE_MAX_RATIO:
            causes.append(
                f"the baseline reads {objective.shown(speeds[base].median)}, it was "
                f"{objective.shown(float(then))} when the promise was made: the speedup is one "
                "over something else"
            )
    return replace(
        verified,
        causes=tuple(causes),
        speedup=speedup,
        best=speeds[best],
        baseline=speeds[base],
        metrics=accuracy.metrics,
        accuracy=accuracy_entry(accuracy, run.task.metrics[0]),
        max_accuracy_drop=run.manifest["max_accuracy_drop"],
    )


def whole_pass(runner: Runner, config: Config) -> OutputArrays:
    """The outputs of one whole pass; a visit may run only a part. Raises VisitFailed."""
    outcome = runner.run(config, ONE_PASS)
    runner.close()
    if outcome.failure is not None:
        raise VisitFailed(config, outcome.failure)
    return outcome.outputs


def lines(found: Verified) -> list[str]:
    """The outcome in lines of text."""
    text = [f"then and now: {line}" for line in found.differences]
    if found.speedup is not None:
        metrics = ", ".join(f"{name} {value:.2f}" for name, value in found.metrics.items())
        if found.accuracy is not None and found.max_accuracy_drop is not None:
            metrics += f"; {judged_words(found.accuracy, found.max_accuracy_drop)}"
        text.append(
            f"{found.speedup.median:.2f}x {objective_named(found.objective).compared} the baseline "
            f"({found.speedup.low:.2f} to {found.speedup.high:.2f}), promised "
            f"{found.promised_speedup:.2f}x; {metrics}"
        )
    text += [f"BROKEN: {cause}" for cause in found.causes]
    text.append("the promise holds" if found.holds else "the promise does not hold")
    return text
