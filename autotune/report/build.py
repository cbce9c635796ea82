"""report.json: the run as one value. report.md and report.html are rendered from it.

The schema is described in docs/report.md.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.emit.huggingface import ScriptLine
from autotune.report.analysis import analysis
from autotune.search.bounds import Bounds
from autotune.search.finals import finals, overruled
from autotune.search.objective import Objective, batch_percentiles, throughput
from autotune.search.ranking import AGAIN, FINAL, JUDGED, SEARCHED, leaders, measured
from autotune.search.result import Result
from autotune.shared.records import Accuracy, Trial, to_jsonable
from autotune.shared.stats import Interval, percentile
from autotune.space import knobs

FORMAT = 1
ENOUGH_CONFIGS = 6
"""So many configurations besides the baselines are enough to say that a search was one."""
ENDING_S = 100.0
"""About how many seconds the finals and the run of launch.sh take."""
NOISY_SHARE, NOISY_SPREAD = 0.1, 1.3
"""A host is not quiet if over 10% of passes were disturbed, or the reference varied over 1.3x."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything in a report that the trials do not say."""

    manifest: Mapping[str, Any]
    metrics: Sequence[str]
    objective: Objective
    line: ScriptLine | None  # None: the task has no script of Hugging Face's
    elapsed_s: float
    bounds: Bounds | None = None


def entry(
    trial: Trial, baseline: Trial, objective: Objective, gain: Interval | None = None
) -> dict[str, Any]:
    """One measured trial with everything derived from its samples.

    `gain` is the speedup from the finals, better than the ratio of two medians.
    """
    measurement, base = trial.measurement, baseline.measurement
    assert measurement is not None
    assert base is not None
    own = objective.interval(measurement)
    accuracy = trial.accuracy
    return {
        "trial": trial.number,
        "origin": trial.origin,
        "id": trial.config.id,
        "config": dict(trial.config),
        "description": knobs.describe(trial.config),
        "objective": to_jsonable(own),
        "speedup": to_jsonable(gain or objective.speedup(own, objective.interval(base))),
        "throughput": to_jsonable(throughput(measurement)),
        "answered": to_jsonable(measurement.answered),
        "batch_s": batch_percentiles(measurement),
        "padded_tokens": measurement.padded_tokens,
        "tokens": measurement.tokens,
        "peak_rss_bytes": measurement.peak_rss_bytes,
        "own_peak_bytes": measurement.own_peak_bytes,
        "phases_s": measurement.phases_s,
        "effective": measurement.effective,
        "metrics": accuracy.metrics if accuracy else None,
        "relative_drop": accuracy.relative_drop if accuracy else None,
        "difference": accuracy.difference if accuracy else None,
        "agreement": accuracy.agreement if accuracy else None,
        "max_abs_logit_difference": accuracy.max_abs_logit_difference if accuracy else None,
        "failure": None
        if trial.failure is None
        else {"kind": trial.failure.kind, "detail": trial.failure.detail},
    }


def build(result: Result, context: Context) -> dict[str, Any]:
    """The report of a finished search."""
    objective, trials = context.objective, result.trials
    searched = [t for t in trials if t.origin in SEARCHED]
    # A finalist is shown with its measurement from the finals, before the other configurations
    # of its mode and precision: their single measurements may be partly luck.
    latest = {t.config.id: t for t in searched if t.measurement is not None}
    for final in finals(trials):
        latest[final.config.id] = final
    # The two baselines have rows of their own. The best stands for its kind, also where another
    # finalist of that kind was as fast with more knobs changed.
    best = [result.best] if result.significant else []
    elsewhere = {t.config for t in (result.baseline, result.dynamic) if t and t not in best}
    allowed = [
        trial
        for trial in (
            *best,
            *leaders(list(latest.values()), objective, (FINAL,)),
            *leaders(list(latest.values()), objective, SEARCHED),
        )
        if trial.config not in elsewhere
    ]

    per_mode: dict[str, Trial] = {}
    for trial in allowed:
        per_mode.setdefault(f"{trial.config['mode']} {trial.config['precision']}", trial)
    for trial in sorted(
        (t for t in latest.values() if not t.succeeded),
        key=lambda t: objective.interval(t.measurement).median if t.measurement else 0.0,
        reverse=objective.maximize,
    ):
        per_mode.setdefault(f"{trial.config['mode']} {trial.config['precision']}", trial)

    failures: dict[str, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        if trial.failure is not None and trial.origin in (*SEARCHED, JUDGED):
            failures[trial.failure.kind].append(trial)

    def shown(trial: Trial) -> dict[str, Any]:
        gain = result.gain if trial.config == result.best.config else None
        if result.dynamic is not None and trial.config == result.dynamic.config:
            gain = result.dynamic_gain
        return entry(trial, result.baseline, objective, gain)

    return {
        "format": FORMAT,
        "autotune": context.manifest["autotune"],
        "created": context.manifest["created"],
        "verdict": verdict(result, context),
        "significant": result.significant,
        "interrupted": result.interrupted,
        "objective": {
            "name": objective.name,
            "unit": objective.unit,
            "maximize": objective.maximize,
            "compared": objective.compared,
        },
        "metrics": list(context.metrics),
        "max_accuracy_drop": context.manifest["max_accuracy_drop"],
        **({"sampler": context.manifest["sampler"]} if "sampler" in context.manifest else {}),
        "elapsed_s": context.elapsed_s,
        "trials": {
            "measured": len(searched),
            "others": len(result.others),  # than the two baselines
            "succeeded": sum(t.succeeded for t in searched),
            "failed": sum(not t.succeeded for t in searched),
            "finals": sum(t.origin == FINAL for t in trials),  # visits, of all finalists
        },
        "baseline": shown(result.baseline),
        "dynamic_baseline": None if result.dynamic is None else shown(result.dynamic),
        "best": shown(result.best),
        "accuracy": judgement(result, context.metrics[0]),
        "gain": gain_in_parts(result),
        "best_by_mode": [shown(trial) for trial in per_mode.values()],
        "screened": screened(searched, per_mode.keys(), result.baseline, objective),
        "failures": {
            kind: [
                {
                    "trial": t.number,
                    "description": knobs.describe(t.config),
                    "detail": t.failure.detail if t.failure else "",
                }
                for t in failed
            ]
            for kind, failed in sorted(failures.items())
        },
        "unavailable": context.manifest["space"]["unavailable"],
        "huggingface": _command_line(context.line),
        "model": context.manifest["model"],
        "workload": context.manifest["workload"],
        "host": context.manifest["host"],
        "stacks": context.manifest["stacks"],
        **analysis(trials, result.baseline, result.best, objective, context.metrics[0]),
        "limit": limit(result.best, context.bounds),
        "noise": noise(trials),
        "engine": None,
        "launch_check": None,
    }


def gain_in_parts(result: Result) -> dict[str, Any]:
    """The gain of the best over both baselines, and what each group of knobs gives of it."""
    return {
        "over_baseline": to_jsonable(result.gain),
        "over_dynamic": to_jsonable(result.over_dynamic),
        "factors": [
            {
                "name": factor.name,
                "description": knobs.describe(factor.config),
                "config": dict(factor.config),
                "gain": to_jsonable(factor.gain),
            }
            for factor in result.factors
        ],
    }


def judgement(result: Result, metric: str) -> dict[str, Any] | None:
    """How sure the gate is of the best configuration, on the most rows on which it was judged.

    None if the best configuration is the baseline.
    """
    if not result.significant:
        return None
    accuracy = _judged_accuracy(result)
    assert accuracy is not None
    return accuracy_entry(accuracy, metric)


def _judged_accuracy(result: Result) -> Accuracy | None:
    """The accuracy of the best configuration on the most rows on which it was judged."""
    config = result.best.config
    judged = [t for t in result.trials if t.config == config and t.origin == JUDGED and t.accuracy]
    return (judged or [result.best])[-1].accuracy


def accuracy_entry(accuracy: Accuracy, metric: str) -> dict[str, Any]:
    """The key `accuracy` of report.json. `metric` is the task's main metric."""
    return {
        "metric": metric,
        "rows": accuracy.rows,
        "loss": accuracy.relative_drop,
        "low": None if accuracy.loss is None else accuracy.loss[0],
        "high": None if accuracy.loss is None else accuracy.loss[1],
        "certainty": accuracy.certainty,
        "rows_to_prove": accuracy.rows_to_prove,
        "score_drift": to_jsonable(accuracy.score_drift),
    }


def _command_line(line: ScriptLine | None) -> dict[str, Any] | None:
    """Hugging Face's command line in report.json's layout."""
    if line is None:
        return None
    found: dict[str, Any] = to_jsonable(line)
    return {"settings": found.pop("variables"), **found}


def screened(
    trials: Sequence[Trial], known: Collection[str], baseline: Trial, objective: Objective
) -> list[dict[str, Any]]:
    """The best screened configuration of each mode and precision that has no full measurement.

    `known` are the modes and precisions that have one, e.g. `jit bf16`.
    """
    best: dict[str, tuple[float, Trial]] = {}
    for trial in trials:
        name = f"{trial.config['mode']} {trial.config['precision']}"
        if trial.screen is None or name in known:
            continue
        value = objective.estimate_screened(trial, measured(baseline))
        if name not in best or objective.better(value, best[name][0]):
            best[name] = (value, trial)
    own = objective.value(measured(baseline))
    return [
        {
            "trial": trial.number,
            "name": name,
            "description": knobs.describe(trial.config),
            "value": value,
            "speedup": value / own if objective.maximize else own / value,
            "batches": len(trial.screen.batches),
            "settled": trial.screen.settled,
        }
        for name, (value, trial) in best.items()
        if trial.screen is not None
    ]


def limit(best: Trial, bounds: Bounds | None) -> dict[str, Any] | None:
    """Operations a second of `best`'s matrix products, padding included, and the host's peaks
    with as many threads."""
    measurement = best.measurement
    if bounds is None or measurement is None:
        return None
    instances = int(best.config["instances"])
    busy = instances * int(best.config["threads"])
    work = sum(bounds.work(best.config))
    return {
        "operations": work,
        "per_s": work * throughput(measurement).median / measurement.examples,
        "threads": busy,
        "peaks": {
            family: rate for (family, threads), rate in bounds.peaks.items() if threads == busy
        },
    }


def noise(trials: Sequence[Trial]) -> dict[str, Any]:
    """How quiet the host was: disturbed passes, configurations measured again because of them,
    and the reference computation's 90th percentile over its 10th."""
    passes = [p for t in trials if t.measurement for p in t.measurement.passes]
    reference = [p.reference_s for p in passes if p.reference_s]
    disturbed = sum(p.disturbed for p in passes)
    spread = percentile(reference, 90) / percentile(reference, 10) if reference else None
    return {
        "passes": len(passes),
        "disturbed": disturbed,
        "tried_again": sum(t.origin == AGAIN for t in trials),
        "reference_spread": spread,
        "quiet": disturbed <= NOISY_SHARE * len(passes) and (spread or 1.0) <= NOISY_SPREAD,
    }


def verdict(result: Result, context: Context) -> str:
    """The outcome in one sentence."""
    objective = context.objective
    best, base = result.best, result.baseline
    assert best.measurement
    assert best.accuracy
    assert base.measurement
    assert base.accuracy
    main = context.metrics[0]
    if not result.significant:
        return _without_gain(result, context)
    own, other = objective.interval(best.measurement), objective.interval(base.measurement)
    gain = result.gain
    late = objective.caveat(best.measurement)
    if late is not None:
        return f"No configuration keeps the limit: the best, {knobs.describe(best.config)}, {late}."
    beside = ""
    if result.over_dynamic is not None:
        over = result.over_dynamic
        beside = (
            f", and {over.median:.1f}x {objective.compared} the same with dynamic padding "
            f"({over.low:.1f} to {over.high:.1f})"
        )
    short = objective.caveat(base.measurement)
    at_least = "" if short is None else f" The baseline {short}, so the gain is a lower bound."
    alone = "" if result.others else f" Nothing else was tried. {search_longer(result, context)}"
    judged = _judged_accuracy(result)
    more = judged is not None and judged.rows > best.accuracy.rows > 0
    searched = f" on the {best.accuracy.rows} rows of the search" if more else ""
    return (
        f"{knobs.describe(best.config)} {objective.verb} {gain.median:.1f}x {objective.compared} "
        f"the baseline ({gain.low:.1f} to {gain.high:.1f}){beside}: "
        f"{objective.shown(own.median)} against "
        f"{objective.shown(other.median)}, {main} {best.accuracy.metrics[main]:.2f} against "
        f"{base.accuracy.metrics[main]:.2f}{searched}.{at_least}{alone}{_fewer_rounds(result)}"
    )


def _fewer_rounds(result: Result) -> str:
    """Says that the best took the place of another finalist; empty if it did not."""
    if result.gain.samples >= result.rounds:
        return ""
    return (
        f" It took the place of another leader, so it was in {result.gain.samples} of the "
        f"{result.rounds} rounds of the finals."
    )


def _without_gain(result: Result, context: Context) -> str:
    """The outcome of a search that found no significant gain, by what it had tried."""
    others, base = result.others, knobs.describe(result.baseline.config)
    if not others:
        ended = "before the interrupt" if result.interrupted else "in the time"
        return (
            f"Nothing but the baseline ({base}) was tried {ended}, {context.elapsed_s:.0f} s, so "
            f"nothing can be recommended. {search_longer(result, context)}"
        )
    if all(t.measurement is None and t.screen is None for t in others):
        kinds = collections.Counter(t.failure.kind for t in others if t.failure is not None)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return (
            f"No gain was found, but none of the {len(others)} other configurations could be "
            f"measured ({counts}). Look at their failures before you keep the baseline ({base})."
        )
    wrong = overruled(result.trials)
    if wrong:
        winners = "the winner" if wrong == 1 else f"{wrong} winners"
        return (
            f"No significant gain is left: {winners} of the finals failed the accuracy test on "
            f"more rows. Keep the baseline ({base}), or search for longer: --time-budget."
        )
    return (
        f"No significant gain: none of {len(others)} configurations within the accuracy limit is "
        f"significantly faster than the baseline ({base}). Keep the baseline."
    )


def search_longer(result: Result, context: Context) -> str:
    """What to do where a search had no time for more than the baselines."""
    minutes = enough_minutes(result, context.elapsed_s)
    return f"Search for longer: --time-budget {minutes}m is about enough here."


def enough_minutes(result: Result, elapsed_s: float) -> int:
    """About how many minutes a search needs to try ENOUGH_CONFIGS, by what its baseline took.

    At least twice the seconds of this search, which were not enough.
    """
    spent_s = sum(trial.duration_s for trial in result.trials)
    trial_s = result.trials[0].duration_s
    needed_s = (elapsed_s - spent_s) + (2 + ENOUGH_CONFIGS) * trial_s + ENDING_S
    return math.ceil(max(needed_s, 2 * elapsed_s) / 60)
