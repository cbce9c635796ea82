"""The parts of report.json for its figures: points, Pareto front, progress and knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from autotune.search.finals import visits
from autotune.search.objective import Objective
from autotune.search.ranking import SEARCHED, leaders, measured
from autotune.shared.records import Config, Measurement, Trial
from autotune.shared.stats import percentile
from autotune.space import knobs

QUANTILES = 101
"""Number of quantiles that describe the distribution of batch times."""


def points(trials: Sequence[Trial], objective: Objective, metric: str) -> list[dict[str, Any]]:
    """The latest measurement of each configuration of the search, the baseline first."""
    latest = {t.config: t for t in trials if t.measurement is not None and t.origin in SEARCHED}
    found = []
    for trial in latest.values():
        own = objective.interval(measured(trial))
        accuracy = trial.accuracy
        found.append(
            {
                "trial": trial.number,
                "description": knobs.describe(trial.config),
                "config": dict(trial.config),
                "value": own.median,
                "low": own.low,
                "high": own.high,
                "metric": accuracy.metrics[metric] if accuracy else None,
                "relative_drop": accuracy.relative_drop if accuracy else None,
                "allowed": trial.succeeded,
            }
        )
    return found


def front(found: Sequence[Mapping[str, Any]], maximize: bool) -> list[int]:
    """Trial numbers of the Pareto front of speed and accuracy, fastest first."""
    judged = [p for p in found if p["metric"] is not None]
    judged.sort(key=lambda p: (p["value"] if maximize else -p["value"], p["metric"]), reverse=True)
    chosen: list[int] = []
    best = -math.inf
    for point in judged:
        if point["metric"] > best:
            best = point["metric"]
            chosen.append(point["trial"])
    return chosen


def progress(trials: Sequence[Trial], objective: Objective) -> list[dict[str, Any]]:
    """After each trial: seconds since the first trial began, and the best value so far."""
    searched = [t for t in trials if t.origin in SEARCHED]
    found: list[dict[str, Any]] = []
    first = datetime.fromisoformat(trials[0].started)
    best: float | None = None
    over = 0.0
    for trial in searched:
        if trial.succeeded:
            value = objective.value(measured(trial))
            best = value if best is None or objective.better(value, best) else best
        began = (datetime.fromisoformat(trial.started) - first).total_seconds()
        over = max(began, over) + trial.duration_s  # grows even if the clock was set back
        found.append({"trial": trial.number, "elapsed_s": over, "best": best})
    return found


def by_value(trials: Sequence[Trial], objective: Objective) -> list[dict[str, Any]]:
    """The best value of the objective with each value of a knob, over allowed configurations.

    Knobs that were measured with one value are left out; the widest spread comes first.
    """
    allowed = leaders(trials, objective, SEARCHED)
    found = []
    for name in knobs.KNOBS:
        best: dict[Any, Trial] = {}
        for trial in allowed:
            value = trial.config.get(name)
            if value is not None:
                best.setdefault(value, trial)
        if len(best) < 2:
            continue
        values = [
            {
                "value": value,
                "best": objective.value(measured(trial)),
                "trial": trial.number,
                "description": knobs.describe(trial.config),
            }
            for value, trial in best.items()
        ]
        reached = [one["best"] for one in values]
        found.append({"knob": name, "values": values, "spread": max(reached) / min(reached)})
    return sorted(found, key=lambda one: -one["spread"])


def one_at_a_time(
    trials: Sequence[Trial], best: Config, objective: Objective
) -> list[dict[str, Any]]:
    """Configurations that differ from `best` in one knob, and how many times as good each is.

    Knobs that the change makes active or inactive may differ too.
    """
    searched = {t.config: t for t in trials if t.measurement is not None and t.origin in SEARCHED}
    if best not in searched:
        return []
    found = []
    for config, trial in searched.items():
        changed = [name for name in best.keys() & config.keys() if best[name] != config[name]]
        if len(changed) != 1:
            continue
        (name,) = changed
        others = best.keys() ^ config.keys()
        if any(name not in knobs.KNOBS[dependent].needs for dependent in others):
            continue
        found.append(
            {
                "knob": name,
                "from": best[name],
                "to": config[name],
                "times": objective.ratio(measured(trial), measured(searched[best])),
                "allowed": trial.succeeded,
                "trial": trial.number,
            }
        )
    return sorted(found, key=lambda one: (one["knob"], -one["times"]))


def batch_quantiles(measurement: Measurement) -> list[float]:
    """QUANTILES quantiles of the seconds of a batch, over all counted passes."""
    return quantiles([s for p in measurement.counted for s in p.batch_s])


def example_quantiles(visits: Sequence[Trial]) -> list[float]:
    """QUANTILES quantiles of the seconds of a batch for each of its model inputs.

    `visits` are the trials of one configuration, each with the batches of its own passes.
    """
    return quantiles([s for visit in visits for s in seconds_an_input(measured(visit))])


def quantiles(samples: Sequence[float]) -> list[float]:
    """QUANTILES quantiles of `samples`, from the smallest to the largest."""
    ordered = sorted(samples)  # sorting sorted samples again costs little
    return [percentile(ordered, 100 * n / (QUANTILES - 1)) for n in range(QUANTILES)]


def seconds_an_input(measurement: Measurement) -> list[float]:
    """The seconds of each batch of the counted passes, divided by its model inputs.

    Instances that shared a pass have their batches one after the other in `batch_features`.
    """
    counts = {p.instance: len(p.batch_s) for p in measurement.passes}
    first = dict.fromkeys(counts, 0)
    if sum(counts.values()) == len(measurement.batch_features):
        place = 0
        for instance in sorted(counts):
            first[instance], place = place, place + counts[instance]
    return [
        seconds / measurement.batch_features[first[p.instance] + number]
        for p in measurement.counted
        for number, seconds in enumerate(p.batch_s)
    ]


def analysis(
    trials: Sequence[Trial], baseline: Trial, best: Trial, objective: Objective, metric: str
) -> dict[str, Any]:
    """The keys of this module in report.json."""
    found = points(trials, objective, metric)
    return {
        "points": found,
        "front": front(found, objective.maximize),
        "progress": progress(trials, objective),
        "knobs": by_value(trials, objective),
        "one_at_a_time": one_at_a_time(trials, best.config, objective),
        "batch_quantiles": {
            "baseline": batch_quantiles(measured(baseline)),
            "best": batch_quantiles(measured(best)),
        },
        "example_quantiles": {
            side: example_quantiles(visits(trials).get(trial.config, [trial]))
            for side, trial in (("baseline", baseline), ("best", best))
        },
    }
