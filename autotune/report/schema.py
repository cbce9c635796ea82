"""The layout of report.json, as types. This command makes docs/report.schema.json from the types:

    python -m autotune.report.schema > docs/report.schema.json

Programs that read reports can rely on the layout. A new minor version of autotune may add a key.
Only a new `format` removes or changes a key. docs/report.md explains the keys.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic requires this one before Python 3.12

from autotune.shared.records import STRICT

Value = bool | int | float | str
# With this decorator, pydantic refuses keys that a TypedDict does not name.
strict = with_config(ConfigDict(**STRICT))  # type: ignore[typeddict-item]


@strict
class IntervalOf(TypedDict):
    """A median, or an estimate of the median, with its confidence interval.

    The unit depends on the key: seconds, examples/s, or a ratio such as a speedup.
    """

    median: float
    low: float
    high: float
    coverage: float
    samples: int


@strict
class FailureOf(TypedDict):
    kind: str
    detail: str


@strict
class Percentiles(TypedDict):
    """Percentiles of the time of a batch, in seconds."""

    p50: float
    p90: float
    p99: float


@strict
class AnsweredOf(TypedDict):
    """A load test of some seconds at one rate of requests.

    Latencies are in seconds, from the arrival of a request to its answer.
    """

    per_s: float
    requests: int
    p50_s: float
    p90_s: float
    p99_s: float
    mean_batch: float
    unmet: float
    p99_low_s: float
    p99_high_s: float
    p99_coverage: float


@strict
class Drift(TypedDict):
    largest: float
    p99: float


@strict
class Judgement(TypedDict):
    """How sure the gate is of a configuration. Losses are relative to the baseline's metric."""

    metric: str
    rows: int
    loss: float
    low: float | None
    high: float | None
    certainty: Literal["proven", "not proven", "outside"]
    rows_to_prove: int | None
    score_drift: Drift | None


@strict
class Entry(TypedDict):
    trial: int
    origin: Literal[
        "baseline", "dynamic", "beside", "prior", "search", "again", "final", "judged", "step"
    ]
    id: str
    config: dict[str, Value]
    description: str
    objective: IntervalOf
    speedup: IntervalOf
    throughput: IntervalOf
    answered: list[AnsweredOf]
    batch_s: Percentiles
    padded_tokens: int
    tokens: int
    peak_rss_bytes: int
    own_peak_bytes: int
    phases_s: dict[str, float]
    effective: dict[str, Any]
    metrics: dict[str, float] | None
    relative_drop: float | None
    difference: tuple[float, float] | None
    agreement: float | None
    max_abs_logit_difference: float | None
    failure: FailureOf | None


@strict
class Part(TypedDict):
    """One part of the gain: `config` over the configuration of the part before it."""

    name: str
    description: str
    config: dict[str, Value]
    gain: IntervalOf


@strict
class Gain(TypedDict):
    over_baseline: IntervalOf
    over_dynamic: IntervalOf | None
    factors: list[Part]


@strict
class Screened(TypedDict):
    trial: int
    name: str
    description: str
    value: float
    speedup: float
    batches: int
    settled: bool


@strict
class Failed(TypedDict):
    trial: int
    description: str
    detail: str


@strict
class Point(TypedDict):
    trial: int
    description: str
    config: dict[str, Value]
    value: float
    low: float
    high: float
    metric: float | None
    relative_drop: float | None
    allowed: bool


@strict
class Step(TypedDict):
    trial: int
    elapsed_s: float
    best: float | None


@strict
class ReachedWith(TypedDict):
    value: Value
    best: float
    trial: int
    description: str


@strict
class KnobReached(TypedDict):
    knob: str
    values: list[ReachedWith]
    spread: float


Change = TypedDict(
    "Change",
    {"knob": str, "from": Value, "to": Value, "times": float, "allowed": bool, "trial": int},
)
"""This form is needed because a class cannot have a field named `from`."""


@strict
class Quantiles(TypedDict):
    """Quantiles of the time of a batch, in seconds."""

    baseline: list[float]
    best: list[float]


@strict
class Limit(TypedDict):
    operations: float
    per_s: float
    threads: int
    peaks: dict[str, float]


@strict
class Noise(TypedDict):
    passes: int
    disturbed: int
    tried_again: int
    reference_spread: float | None
    quiet: bool


@strict
class Engine(TypedDict):
    kept: bool
    reason: str | None
    bytes: NotRequired[int]
    prepare_s: NotRequired[float]
    prepare_from_kept_s: NotRequired[float]


@strict
class LaunchCheck(TypedDict):
    objective: str
    measured: IntervalOf
    promised: IntervalOf
    ratio: float
    consistent: bool
    metrics: dict[str, float]
    promised_metrics: dict[str, float]
    same_metrics: bool
    phases_s: NotRequired[dict[str, float]]
    first_ratio: NotRequired[float]
    beside: NotRequired[IntervalOf]


@strict
class LaunchFailed(TypedDict):
    error: str


@strict
class HuggingFace(TypedDict):
    settings: dict[str, str]
    argv: list[str]
    not_expressed: list[str]
    source: str


@strict
class Objective(TypedDict):
    name: str
    unit: str
    maximize: bool
    compared: str


@strict
class Trials(TypedDict):
    measured: int
    others: int
    succeeded: int
    failed: int
    finals: int


@strict
class Report(TypedDict):
    format: Literal[1]
    autotune: str
    created: str
    verdict: str
    significant: bool
    interrupted: bool
    objective: Objective
    metrics: list[str]
    max_accuracy_drop: float
    sampler: NotRequired[str]
    elapsed_s: float
    trials: Trials
    baseline: Entry
    dynamic_baseline: Entry | None
    best: Entry
    accuracy: Judgement | None
    gain: Gain
    best_by_mode: list[Entry]
    screened: list[Screened]
    failures: dict[str, list[Failed]]
    unavailable: dict[str, str]
    huggingface: HuggingFace | None
    model: dict[str, Any]
    workload: dict[str, Any]
    host: dict[str, Any]
    stacks: dict[str, dict[str, Any]]
    points: list[Point]
    front: list[int]
    progress: list[Step]
    knobs: list[KnobReached]
    one_at_a_time: list[Change]
    batch_quantiles: Quantiles
    example_quantiles: Quantiles
    limit: Limit | None
    noise: Noise
    engine: Engine | None
    launch_check: LaunchCheck | LaunchFailed | None


def schema() -> dict[str, Any]:
    """Return the layout as JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "autotune report, format 1",
        **TypeAdapter(Report).json_schema(),
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
