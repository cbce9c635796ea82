"""The values that cross process boundaries or are written to disk.

Records are immutable, and `to_jsonable` turns them into JSON. The orchestrator reads them back
through pydantic (`autotune.store.wire`), which checks every field. The worker builds them as plain
dataclasses, because its interpreter may lack pydantic.

Units: seconds as float (`_s`), bytes as int (`_bytes`), logits in the model's own scale.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Scalar = bool | int | float | str

FAILURE_KINDS = (
    "crash",  # the worker died; the detail names the signal or exit code
    "timeout",  # no reply in time, so the process group was killed
    "out-of-memory",  # MemoryError, or killed by the kernel
    "illegal-instruction",  # SIGILL
    "unsupported",  # this stack, host or model cannot run the configuration
    "fallback",  # the engine would have run something other than the configuration
    "non-finite",  # NaN or infinity in the outputs
    "inaccurate",  # measured, but the accuracy drop is over the limit
    "slow",  # screened: a few batches were clearly slower than the leader's
    "protocol",  # a reply that does not follow the wire format
)

ALWAYS_FAIL = ("unsupported", "fallback")
"""Kinds of failure that every point of a session shares."""
FAIL_PREPARING = ("crash", "illegal-instruction", "inaccurate", "timeout")
"""Kinds that every point shares if the engine failed so while it was prepared: another try would
do the same again, for minutes. Memory may suffice next time, so `out-of-memory` is not here."""

DEFAULT_STACK = "default"
"""The name of the stack of the interpreter that runs autotune."""

DISTURBED_SHARE = 0.1
"""A pass is disturbed if others held one of its threads, or one of its CPUs, for over this share of
its seconds."""

SHARE_TOLERANCE = 1e-6
"""The shares of instances may add up to 1 with this error and still be the whole workload."""

STRICT = {"extra": "forbid", "allow_inf_nan": False}
"""Settings of pydantic for every record: unknown fields and non-finite numbers are errors."""


@dataclass(frozen=True, slots=True, eq=True, repr=False)
class Config(Mapping[str, Any]):
    """A configuration: one value for every active knob, in the order of their names.

    It is the same value from the space to the worker and the report. In JSON and YAML it is an
    object with a value for each knob, which pydantic reads and writes. A part of a configuration,
    such as the knobs of its session, is a `Config` too. Equal values give equal `id`s.
    """

    pairs: tuple[tuple[str, Scalar], ...]

    @classmethod
    def of(cls, values: Mapping[str, Scalar]) -> Config:
        return cls(pairs=tuple(sorted(values.items())))

    def __getitem__(self, knob: str) -> Scalar:
        for name, value in self.pairs:
            if name == knob:
                return value
        raise KeyError(knob)

    def __iter__(self) -> Iterator[str]:
        return (knob for knob, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Config.of({dict(self.pairs)})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # which a worker may lack

        return core_schema.no_info_after_validator_function(
            cls.of,
            handler.generate_schema(dict[str, Scalar]),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )

    def only(self, knobs: frozenset[str]) -> Config:
        """The values of `knobs` alone; knobs that are not active are left out."""
        return _restrict(self, knobs)

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(dict(self.pairs), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=1 << 15)
def _restrict(config: Config, knobs: frozenset[str]) -> Config:
    """`Config.only`, cached: a search asks for the same parts again and again."""
    return Config(pairs=tuple((k, v) for k, v in config.pairs if k in knobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """How a worker loads the model. It loads `path` as given, always in float32."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    path: str
    head: str  # transformers auto class, e.g. "AutoModelForQuestionAnswering"
    outputs: dict[str, str]  # output of the model -> the axes it begins with (shared.axes)
    work: str = "text"  # how rows become inputs, and what is run: one of autotune.worker.work
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a worker found out about the model while encoding the dataset."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    model_type: str
    architecture: str
    parameters: int
    attention: str  # the implementation transformers picks by default
    attentions: tuple[str, ...]  # the implementations with which the model loads
    max_positions: int | None
    digest: str  # SHA-256 over config, tokenizer and weights
    labels: tuple[str, ...] = ()
    problem: str = "single_label"  # what the labels are: single_label, multi_label or regression
    padding_neutral: bool = True  # a padded row has the answers that it has alone
    # (c, a, b): a row padded to w tokens costs c + a w + b w^2 floating-point operations
    work: tuple[float, float, float] | None = None
    note: str = ""  # a line for the user about how the model was read; no part of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One timed run over the workload, or over an evenly spaced part of its batches."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    batch_s: tuple[float, ...]  # one entry for each batch, in the order run
    instance: int = 0  # which of the workers that ran side by side
    waited_s: float = 0.0  # time that threads were ready but had no CPU, summed over threads
    stolen_s: float = 0.0  # time that the hypervisor kept the CPUs it used, summed over them
    held_up_s: float = 0.0  # longest wait of one thread, and longest theft of one CPU
    reference_s: float = 0.0  # a small fixed computation: mean of before and after the pass
    share: float = 1.0  # part of the workload's padded tokens that ran; no outputs if below 1
    cold: bool = False  # the engine had not settled, or compiled for new shapes
    meeting_s: float = 0.0  # estimated seconds that new shapes cost: excess over a warm pass

    @property
    def total_s(self) -> float:
        return sum(self.batch_s)

    @property
    def warm_batch_s(self) -> tuple[float, ...]:
        """`batch_s` scaled down so that the sum no longer includes `meeting_s`."""
        if not self.meeting_s:
            return self.batch_s
        warm_share = 1 - self.meeting_s / self.total_s
        return tuple(warm_share * seconds for seconds in self.batch_s)

    @property
    def whole_s(self) -> float:
        """Estimated seconds of a warm pass over the whole workload."""
        return (self.total_s - self.meeting_s) / self.share

    @property
    def taken_s(self) -> float:
        """CPU seconds that others took while the worker could have used them, summed over threads
        and CPUs: without others the pass would have been shorter by at most this."""
        return self.waited_s + self.stolen_s

    @property
    def disturbed(self) -> bool:
        """Whether others held this pass up for over DISTURBED_SHARE of its seconds."""
        return self.held_up_s > DISTURBED_SHARE * self.total_s


def counted(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes from which a speed is computed: warm and, if possible, undisturbed passes.

    An instance without a warm pass keeps its cold passes. Disturbed passes are left out only if
    every instance keeps at least half of its passes.
    """
    settled = {p.instance for p in passes if not p.cold}
    warm = tuple(p for p in passes if not (p.cold and p.instance in settled))
    quiet = tuple(p for p in warm if not p.disturbed)
    warm_passes, quiet_passes = (Counter(p.instance for p in some) for some in (warm, quiet))
    half_left = all(2 * quiet_passes[instance] >= count for instance, count in warm_passes.items())
    return quiet if half_left else warm


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that is ready to measure."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    phases_s: dict[str, float]  # start, import, prepare
    files: tuple[str, ...] = ()  # cached files from which the engine can be prepared again
    properties: dict[str, str] = field(default_factory=dict)  # of the engine's own library


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """The result of one load test at one rate. A latency is the time from arrival to answer."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    per_s: float  # requests a second that arrive
    requests: int
    p50_s: float
    p90_s: float
    p99_s: float
    mean_batch: float  # rows
    unmet: float = 0.0  # share of the batches that had a shape new to the engine
    p99_low_s: float = 0.0  # order-statistic interval of the p99, and the probability that it
    p99_high_s: float = 0.0  # holds the p99: low where there were few requests
    p99_coverage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The samples of one configuration, and the settings that were really in effect."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    examples: int  # rows of the dataset in one pass
    features: int  # model inputs in one pass; a long row gives several
    tokens: int  # without padding
    padded_tokens: int  # with padding
    batch_features: tuple[int, ...]  # features in each batch of a pass
    passes: tuple[Pass, ...]
    # start, import, prepare, warm_up, measure; the baseline also has reference, the seconds for the
    # answers that all others are compared with
    phases_s: dict[str, float]
    peak_rss_bytes: int
    effective: dict[str, Scalar]  # threads, CPUs, dtype, ... as the worker found them
    # SHA-256 of the last pass's outputs; if instances shared the pass, of all their digests
    outputs_digest: str
    outputs_repeatable: bool  # all passes gave the same outputs
    answered: tuple[LoadResult, ...] = ()  # load tests at the highest rates served in time
    shared_bytes: int = 0  # part of peak_rss_bytes that counts for other processes: RSS less PSS

    @property
    def whole(self) -> bool:
        """Whether passes ran the whole workload: in every instance, or in all instances together.

        Only then are there outputs.
        """
        shares = {p.instance: p.share for p in self.passes}
        return set(shares.values()) == {1.0} or abs(sum(shares.values()) - 1) < SHARE_TOLERANCE

    @property
    def preparing_s(self) -> float:
        """Seconds to import and prepare until the session can measure."""
        return self.phases_s.get("import", 0.0) + self.phases_s.get("prepare", 0.0)

    @property
    def own_peak_bytes(self) -> int:
        """Peak memory in which a page that n processes share counts one n-th."""
        return self.peak_rss_bytes - self.shared_bytes

    @property
    def counted(self) -> tuple[Pass, ...]:
        """The passes from which the speed is computed."""
        return counted(self.passes)

    @classmethod
    def merge(cls, measurements: Sequence[Measurement]) -> Measurement:
        """One measurement from those of instances that ran side by side.

        Memory is summed. A phase is as long as in the slowest instance. Raises ValueError if the
        instances did not do the same work, or if one does not report `released_s`.
        """
        first = measurements[0]
        if len(measurements) == 1:
            return first
        shared = any(p.share < 1 for m in measurements for p in m.passes)
        batches = [m.batch_features for m in measurements]
        if not shared and len(set(batches)) > 1:
            raise ValueError("instances side by side ran different batches")
        digests = [m.outputs_digest for m in measurements]
        same_outputs = shared or len(set(digests)) == 1
        released = [float(m.effective.get("released_s", math.nan)) for m in measurements]
        if any(map(math.isnan, released)):
            raise ValueError("an instance does not say when it was released")
        return dataclasses.replace(
            first,
            passes=tuple(p for m in measurements for p in m.passes),
            phases_s={
                phase: max(m.phases_s.get(phase, 0.0) for m in measurements)
                for phase in first.phases_s
            },
            peak_rss_bytes=sum(m.peak_rss_bytes for m in measurements),
            shared_bytes=sum(m.shared_bytes for m in measurements),
            effective={
                **first.effective,
                "cpus": " ".join(str(m.effective["cpus"]) for m in measurements),
                "instances": len(measurements),
                "release_spread_s": max(released) - min(released),
            },
            batch_features=tuple(itertools.chain(*batches)) if shared else first.batch_features,
            outputs_digest=(
                hashlib.sha256("".join(digests).encode()).hexdigest()
                if shared
                else first.outputs_digest
            ),
            outputs_repeatable=all(m.outputs_repeatable for m in measurements) and same_outputs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The batches from which screening judged a configuration to be too slow."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    batches: tuple[int, ...]  # their numbers in the pass
    batch_s: tuple[float, ...]
    pass_s: float  # estimated seconds of a pass, in proportion to padded tokens
    phases_s: dict[str, float]  # as in a measurement
    settled: bool = True  # two warm-up rounds agreed; if not, batches were still getting faster
    taken_s: float = 0.0  # CPU seconds that others took, summed over threads and CPUs
    held_up_s: float = 0.0  # as in a pass

    @property
    def disturbed(self) -> bool:
        """Whether others held these batches up for over DISTURBED_SHARE of their seconds."""
        return self.held_up_s > DISTURBED_SHARE * sum(self.batch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequests:
    """The requests of one load test, as a worker answered them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    latency_s: tuple[float, ...]  # from arrival to answer, in the order of arrival
    batches: tuple[int, ...]  # rows in each batch
    unmet: int = 0  # batches that had a shape new to the engine


PROVEN, UNPROVEN, OUTSIDE = "proven", "not proven", "outside"
"""How sure the gate is: the whole interval of the loss is within the limit; the loss is, but not
its whole interval; the loss is over the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDrift:
    """How far the scores (0 to 1) of rows or tokens are from the reference's."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    largest: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The gate's verdict on one configuration."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    metrics: dict[str, float]  # in percent, the task's main metric first
    relative_drop: float  # of the main metric, against the reference; negative is a gain
    agreement: float  # share of predictions equal to the reference's, 0 to 1
    max_abs_logit_difference: float
    allowed: bool
    # 95% interval of the gain in the main metric over the reference, in percentage points
    difference: tuple[float, float] | None = None
    loss: tuple[float, float] | None = None  # 95% interval of `relative_drop`
    rows: int = 0  # rows of the dataset that were judged
    certainty: str = UNPROVEN  # PROVEN, UNPROVEN or OUTSIDE
    rows_to_prove: int | None = None  # about how many would prove it; None if proven, or if none
    score_drift: ScoreDrift | None = None  # None for tasks without scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a configuration has no valid measurement."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    kind: str
    detail: str
    preparing: bool = False  # the engine was being prepared; no point had been asked for yet

    def __post_init__(self) -> None:
        if self.kind not in FAILURE_KINDS:
            raise ValueError(f"failure kind must be one of {FAILURE_KINDS}, got {self.kind!r}")

    @property
    def holds_for_session(self) -> bool:
        """Whether every point of the session would fail alike, so that none need be tried."""
        return self.kind in ALWAYS_FAIL or (self.preparing and self.kind in FAIL_PREPARING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration's outcome.

    | outcome | has |
    |---|---|
    | succeeded | `measurement`, `accuracy` |
    | rejected by the gate | `measurement`, `accuracy`, `failure` |
    | screened as too slow | `screen`, `failure` |
    | failed in another way | `failure` |
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    number: int
    origin: str  # one of autotune.search.ranking
    config: Config
    started: str  # ISO 8601, UTC
    duration_s: float
    measurement: Measurement | None = None
    accuracy: Accuracy | None = None
    failure: Failure | None = None
    screen: Screen | None = None
    log: str = ""  # the end of the worker's standard error, if the trial failed

    @property
    def succeeded(self) -> bool:
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts:
    """One interpreter and what it can run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    python: str  # path of the interpreter
    python_version: str
    versions: dict[str, str]  # installed distribution -> version
    ipex: str | None  # None if IPEX is usable, otherwise the reason why not
    libiomp5: str | None = None  # real path of Intel's OpenMP library, if installed
    # mode -> precision -> None if it runs, otherwise the reason why not
    modes: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def refusal(self, config: Config) -> str | None:
        """Why this stack cannot run the engine of `config`; None if it can."""
        mode, precision = str(config["mode"]), str(config["precision"])
        reason = self.modes.get(mode, {}).get(precision, "this stack does not offer it")
        return None if reason is None else f"{mode} {precision} cannot run here: {reason}"


def to_jsonable(record: Any) -> Any:
    """A record as dicts, lists and scalars."""
    if isinstance(record, Mapping):  # a Config too
        return {str(key): to_jsonable(value) for key, value in record.items()}
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_jsonable(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, tuple | list):
        return [to_jsonable(item) for item in record]
    return record


def dumps(record: Any) -> str:
    """One line of JSON. Raises ValueError on NaN or infinity."""
    return json.dumps(to_jsonable(record), allow_nan=False, separators=(",", ":"))
