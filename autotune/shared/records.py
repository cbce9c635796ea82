"""The values that cross process boundaries or are written to disk.

Everything here is immutable and JSON-serialisable with `to_jsonable`. The orchestrator reads
these records back through pydantic (`autotune.store.wire`), which checks every field; the worker
builds them on interpreters without pydantic, so this module is standard library only.

Units: seconds as float (`_s`), bytes as int (`_bytes`), logits in the model's own scale.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Scalar = bool | int | float | str

FAILURE_KINDS = (
    "crash",  # the worker died: signal or exit code in the detail
    "timeout",  # no reply in time; the process group was killed
    "out-of-memory",  # MemoryError, or killed by the kernel
    "illegal-instruction",  # SIGILL
    "unsupported",  # this stack, host or model cannot run the configuration
    "fallback",  # something else than what was asked would have run
    "non-finite",  # NaN or infinity in the outputs
    "inaccurate",  # measured, and outside the accuracy limit
    "slow",  # screened out: a few batches were far slower than the leader's
    "protocol",  # a reply that does not follow the wire format
)

DEFAULT_STACK = "default"
"""The name of the stack that runs autotune itself."""

ONE_PASS_RATIO = 1.05
"""A configuration this many times slower than the leader is not measured to an interval."""

SCREEN_RATIO = 1.15
"""One whose first batches say that it is this many times slower is not measured at all."""

DISTURBED_SHARE = 0.1
"""A pass in which waiting and stolen time are over this share of it is not counted."""

STRICT = {"extra": "forbid", "allow_inf_nan": False}
"""pydantic settings of every record: unknown fields and non-finite numbers are errors."""


@dataclass(frozen=True, slots=True, eq=True)
class Config:
    """One value for every active knob. Equal values give equal `id`s, in any order."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    values: tuple[tuple[str, Scalar], ...]

    @classmethod
    def of(cls, values: Mapping[str, Scalar]) -> Config:
        return cls(values=tuple(sorted(values.items())))

    def __getitem__(self, knob: str) -> Scalar:
        return dict(self.values)[knob]

    def get(self, knob: str, default: Scalar | None = None) -> Any:
        return dict(self.values).get(knob, default)

    def __iter__(self) -> Iterator[str]:
        return (knob for knob, _ in self.values)

    def as_dict(self) -> dict[str, Scalar]:
        return dict(self.values)

    def only(self, knobs: frozenset[str]) -> Config:
        """The part of this configuration that concerns `knobs`."""
        return _restrict(self, knobs)

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """How a worker loads the model: always in float32, always from `path` as given."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    path: str
    head: str  # transformers auto class, e.g. "AutoModelForQuestionAnswering"
    outputs: dict[str, str]  # model outputs to return -> one vector a "token" or a "feature"
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
    attentions: tuple[str, ...]  # those that load
    max_positions: int | None
    digest: str  # SHA-256 over config, tokenizer and weights
    labels: tuple[str, ...] = ()
    # (c, a, b): a row padded to w tokens takes c + a w + b w^2 floating-point operations
    work: tuple[float, float, float] | None = None


@functools.lru_cache(maxsize=1 << 15)
def _restrict(config: Config, knobs: frozenset[str]) -> Config:
    return Config(values=tuple((k, v) for k, v in config.values if k in knobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One timed run over the workload, or over an evenly spread share of its batches."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    batch_s: tuple[float, ...]  # one entry a batch, in the order run
    instance: int = 0  # which of the workers side by side
    waited_s: float = 0.0  # threads of the worker ready to run without a CPU, added
    stolen_s: float = 0.0  # CPUs of the machine kept by the hypervisor, added
    reference_s: float = 0.0  # a small fixed computation, mean of before and after
    share: float = 1.0  # of the workload's padded tokens, what it ran; below 1: no outputs
    cold: bool = False  # the engine had not settled yet, or met shapes in it
    meeting_s: float = 0.0  # of its seconds, what that took by the warm batches run before

    @property
    def total_s(self) -> float:
        return sum(self.batch_s)

    @property
    def warm_batch_s(self) -> tuple[float, ...]:
        """`batch_s` without what meeting shapes took, each batch having its part of it."""
        if not self.meeting_s:
            return self.batch_s
        warm = 1 - self.meeting_s / self.total_s
        return tuple(warm * seconds for seconds in self.batch_s)

    @property
    def whole_s(self) -> float:
        """What a warm pass over the whole workload takes, by this one."""
        return (self.total_s - self.meeting_s) / self.share

    @property
    def taken_s(self) -> float:
        """CPU seconds that others had when this could have used them."""
        return self.waited_s + self.stolen_s

    @property
    def disturbed(self) -> bool:
        """Whether others took a noticeable share of the CPUs meanwhile."""
        return self.taken_s > DISTURBED_SHARE * self.total_s


def counted(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The warm ones, or all of an instance that has none; of these, those that nothing disturbed,
    where each instance has half of them left."""
    settled = {p.instance for p in passes if not p.cold}
    warm = tuple(p for p in passes if not (p.cold and p.instance in settled))
    quiet = tuple(p for p in warm if not p.disturbed)
    every, left = ([p.instance for p in some] for some in (warm, quiet))
    enough = all(2 * left.count(instance) >= every.count(instance) for instance in set(every))
    return quiet if enough else warm


SHARE_TOLERANCE = 1e-6
"""How near 1 shares add up to that are one whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that is ready to measure."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    phases_s: dict[str, float]  # import, prepare
    files: tuple[str, ...] = ()  # in the cache, all that preparing it again needs of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Some seconds of requests at one rate. Latencies are from arrival to answer."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    per_s: float
    requests: int
    p50_s: float
    p90_s: float
    p99_s: float
    mean_batch: float
    unmet: float = 0.0  # share of the batches whose shape the engine had to specialise for


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one configuration did: every sample, and what was really in effect."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    examples: int  # rows of the dataset in one pass
    features: int  # model inputs in one pass (a long row gives several)
    tokens: int  # without padding
    padded_tokens: int  # with it
    batch_features: tuple[int, ...]  # features in each batch that a pass ran
    passes: tuple[Pass, ...]
    phases_s: dict[str, float]  # import, load, prepare, warm_up, measure
    peak_rss_bytes: int
    effective: dict[str, Scalar]  # threads, CPUs, dtype, ... as the worker saw them
    outputs_digest: str  # of the outputs of the last pass, or of the instances' digests
    outputs_repeatable: bool  # all passes gave the same outputs
    answered: tuple[LoadResult, ...] = ()  # the highest rates found to be served in time

    @property
    def whole(self) -> bool:
        """Whether its passes ran the whole workload, each instance's or together; only then are
        there outputs."""
        shares = {p.instance: p.share for p in self.passes}
        return set(shares.values()) == {1.0} or abs(sum(shares.values()) - 1) < SHARE_TOLERANCE

    @property
    def preparing_s(self) -> float:
        """Seconds from nothing to a session that can measure."""
        return self.phases_s.get("import", 0.0) + self.phases_s.get("prepare", 0.0)

    @property
    def counted(self) -> tuple[Pass, ...]:
        """The passes that say how fast it is."""
        return counted(self.passes)

    @classmethod
    def merge(cls, measurements: Sequence[Measurement]) -> Measurement:
        """The measurements of instances side by side, as one measurement.

        Memory is added up; each phase takes as long as its slowest instance. Raises ValueError
        if the instances did not do the same work.
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
    """A few batches of a configuration that was not worth a pass."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    batches: tuple[int, ...]  # which of a pass
    batch_s: tuple[float, ...]
    pass_s: float  # what a pass would take, by the tokens of these batches
    phases_s: dict[str, float]  # as of a measurement
    settled: bool = True  # two rounds agreed; else it was still getting faster
    taken_s: float = 0.0  # CPU seconds that others had meanwhile, as of a pass

    @property
    def disturbed(self) -> bool:
        """Whether others took a noticeable share of the CPUs meanwhile."""
        return self.taken_s > DISTURBED_SHARE * sum(self.batch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequests:
    """Requests that were answered: from arrival to answer, in order, and the number of rows of
    each batch."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    latency_s: tuple[float, ...]
    batches: tuple[int, ...]
    unmet: int = 0  # batches whose shape the engine had to specialise for


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The gate's judgement of one configuration."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    metrics: dict[str, float]  # in percent, the task's main metric first
    relative_drop: float  # of the main metric against the reference; negative is a gain
    agreement: float  # share of predictions equal to the reference's, 0..1
    max_abs_logit_difference: float
    allowed: bool
    # 95% interval of the gain in the main metric over the reference, in points of percent
    difference: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a configuration has no valid measurement."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    kind: str
    detail: str

    def __post_init__(self) -> None:
        if self.kind not in FAILURE_KINDS:
            raise ValueError(f"failure kind must be one of {FAILURE_KINDS}, got {self.kind!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration's outcome.

    A trial that succeeded has `measurement` and `accuracy` and no `failure`. One that was
    measured and rejected by the gate has all three; one that was too slow to be measured has
    `screen` and `failure`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    number: int
    origin: str  # baseline, prior, search, again or final
    config: Config
    started: str  # ISO 8601, UTC
    duration_s: float
    measurement: Measurement | None = None
    accuracy: Accuracy | None = None
    failure: Failure | None = None
    screen: Screen | None = None
    log: str = ""  # the tail of the worker's standard error, on failure

    @property
    def succeeded(self) -> bool:
        return self.failure is None


Rung = Literal["both", "first", "rest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """How a worker measures one point: the rule of `autotune.shared.stopping`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    min_passes: int = 3
    max_passes: int = 20
    half_width: float = 0.03  # stop once the relative interval of the median is this narrow
    budget_s: float = 10.0  # stop after the pass that crosses this, given min_passes
    patience_s: float = 40.0  # stop after the pass that crosses this, whatever min_passes says
    leader_s: float | None = None  # stop after a first pass over ONE_PASS_RATIO times this, or
    # before it where the first batches say that it would take SCREEN_RATIO times this
    part_s: float | None = None  # of a pass that takes longer than this, run a part as long
    # "first": one pass, in which the engine meets its shapes, to be judged by; "rest": go on
    # after it, without warming up
    rung: Rung = "both"


ONE_PASS = StoppingRule(min_passes=1, max_passes=1)
"""Another where that one was disturbed or cold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts:
    """One interpreter and what it can run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    python: str  # path of the interpreter
    python_version: str
    versions: dict[str, str]  # distribution -> version, those installed only
    ipex: str | None  # None: usable; otherwise why not, in words
    libiomp5: str | None = None  # real path of Intel's OpenMP, where it has it
    # mode -> precision -> None (it runs) or why not
    modes: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def refusal(self, config: Config) -> str | None:
        """Why this stack cannot run the engine of `config`; None where it can."""
        mode, precision = str(config["mode"]), str(config["precision"])
        reason = self.modes.get(mode, {}).get(precision, "this stack does not offer it")
        return None if reason is None else f"{mode} {precision} cannot run here: {reason}"


def to_jsonable(record: Any) -> Any:
    """A record as dicts, lists and scalars (`Config` as its dict of values)."""
    if isinstance(record, Config):
        return record.as_dict()
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_jsonable(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_jsonable(value) for key, value in record.items()}
    if isinstance(record, tuple | list):
        return [to_jsonable(item) for item in record]
    return record


def dumps(record: Any) -> str:
    """One line of JSON. Raises ValueError on NaN or infinity."""
    return json.dumps(to_jsonable(record), allow_nan=False, separators=(",", ":"))
