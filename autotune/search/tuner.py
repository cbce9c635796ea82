"""What to measure next: by how much it may gain, how likely it is allowed, and what it costs.

Pure: it sees observations and proposes configurations. `search.loop` feeds it on a host,
`bench/replay.py` on recorded tables.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.driver.runner import ENGINE_KNOBS, POINT_KNOBS, PROCESS_KNOBS, SESSION_KNOBS
from autotune.search.surrogate import Encoder, Surrogate
from autotune.shared.records import Config, Scalar
from autotune.space import Space

ALL_KNOBS = SESSION_KNOBS | POINT_KNOBS
WHOLE_SPACE = 5000
"""Of up to so many combinations all are candidates, else LEADERS' neighbours and a sample."""
LEADERS = 6
SAMPLE = 600
FAILED = 20.0
"""In units of the limit: how far beyond it a configuration that failed is counted."""
CHANCE = 0.5
"""Over one more than how many configurations of a precision lost too much: the chance that the
next does not, the mean of Jeffreys' posterior after so many failures."""
UNKNOWN_EXCESS = -0.5
PREPARING_S = {"inductor": 60.0, "zentorch": 30.0}
TYPICAL_S = 5.0
"""What preparing an engine is taken to cost before one of its mode has been prepared: compilers
take long, the others as long as those so far, or this."""
STARTING_S = 5.0
RECENT = 3
"""What a process with settings of its own is taken to cost before one has been started; those of
so many last ones are there to be forked from."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What came of a configuration, for the tuner."""

    config: Config
    speed: float | None  # logarithm of how good it is, larger is better; None: never measured
    excess: float | None  # loss of accuracy beyond the limit, in its units; None: not judged
    preparing_s: float | None  # the engine, to open its session; None where it was open
    measuring_s: float
    starting_s: float = 0.0  # the process, where its session was not open

    @property
    def allowed(self) -> bool:
        return self.speed is not None and self.excess is not None and self.excess <= 0


class Tuner:
    """Proposes configurations of `space`."""

    def __init__(self, space: Space, *, seed: int) -> None:
        self._space = space
        self._rng = random.Random(seed)
        self._encoder = Encoder(space)
        self._speeds = Surrogate(self._encoder, mean=None, seed=seed)
        self._excesses = Surrogate(self._encoder, mean=UNKNOWN_EXCESS, seed=seed + 1)
        self._near: dict[Config, list[Config]] = {}
        self._everything = space.whole(WHOLE_SPACE)
        self._rows = self._encoder.encode(self._everything or [])

    def propose(
        self,
        observations: Sequence[Observation],
        usable: Callable[[Config], bool],
        *,
        open_session: Config | None,
        remaining_s: float | None = None,
    ) -> Config | None:
        """The configuration with the largest expected gain a second; None where all are known.

        `usable` says whether a configuration may be proposed; `open_session` are the process
        and engine knobs of the session that is open, whose points cost no preparation. Opening
        one leaves at least as much of `remaining_s` for others.
        """
        seen = {o.config for o in observations}
        found, rows = self._candidates(observations)
        left = [i for i, c in enumerate(found) if c not in seen and usable(c)]
        candidates, wanted = [found[i] for i in left], rows[left]
        if not candidates:
            return None
        measured = [o for o in observations if o.speed is not None]
        allowed = [o for o in measured if o.allowed]
        if len(measured) < 2 or not allowed:
            return self._rng.choice(candidates)
        known_rows = self._encoder.encode([o.config for o in measured])
        self._speeds.fit(known_rows, np.array([o.speed for o in measured], float))
        judged = {o.config: FAILED if o.speed is None else o.excess for o in observations}
        known = {config: excess for config, excess in judged.items() if excess is not None}
        excesses = squashed(np.clip(np.array(list(known.values()), float), -1.0, FAILED))
        judged_configs = list(known)
        self._excesses.fit(self._encoder.encode(judged_configs), excesses)
        mean, deviation = self._speeds.predict(wanted)
        best_rows = known_rows[[o.allowed for o in measured]]
        best = float(self._speeds.predict(best_rows)[0].max())
        gain = expected_improvement(mean, deviation, best)
        excess, spread = self._excesses.predict(wanted)
        apart, chance = within(judged_configs, excesses), chances(judged_configs, excesses)
        own = np.array([apart.get(config.only(ENGINE_KNOBS), 0.0) for config in candidates])
        likely = allowed_probability(excess, spread, own)
        least = [chance.get(config["precision"], CHANCE) for config in candidates]
        likely = np.maximum(likely, least)
        to_open, to_measure = self._costs(candidates, observations, mean, open_session)
        score = np.log(gain * likely + 1e-300) - np.log(to_open + to_measure)
        if remaining_s is not None:
            late = (2 * to_open > remaining_s) | (to_open + to_measure > remaining_s)
            score[late] -= 1e6
        return candidates[int(score.argmax())]

    def _candidates(self, observations: Sequence[Observation]) -> tuple[list[Config], Array]:
        """Configurations to choose among, and their rows."""
        if self._everything is not None:
            return self._everything, self._rows
        ranked = sorted(
            (o for o in observations if o.allowed and self._space.contains(o.config)),
            key=lambda o: o.speed or 0.0,
            reverse=True,
        )
        found: dict[Config, None] = {}
        for leader in ranked[:LEADERS]:
            found.update(dict.fromkeys(self._neighbours(leader.config)))
        for leader in ranked[:2]:
            for near in self._neighbours(leader.config):
                others = self._neighbours(near)
                found.update(dict.fromkeys(self._rng.sample(others, min(6, len(others)))))
        found.update(dict.fromkeys(self._space.sample(self._rng) for _ in range(SAMPLE)))
        return list(found), self._encoder.encode(list(found))

    def _neighbours(self, config: Config) -> list[Config]:
        """Remembered: the leaders of one choice are mostly those of the last."""
        if config not in self._near:
            self._near[config] = self._space.neighbours(config, ALL_KNOBS)
        return self._near[config]

    def _costs(
        self,
        candidates: Sequence[Config],
        observations: Sequence[Observation],
        mean: Array,
        open_session: Config | None,
    ) -> tuple[Array, Array]:
        """Seconds that each candidate is expected to take, to open its session and to measure."""
        sessions = [config.only(SESSION_KNOBS) for config in candidates]
        cost_of = opening(observations)
        # Measuring takes long where a pass does: seconds times speed is about constant.
        work = [
            math.log(o.measuring_s) + o.speed
            for o in observations
            if o.speed is not None and o.measuring_s > 0
        ]
        measuring = np.exp((statistics.median(work) if work else 0.0) - mean)
        shortest = min((o.measuring_s for o in observations if o.measuring_s > 0), default=0.1)
        to_open = [0.0 if session == open_session else cost_of(session) for session in sessions]
        return np.asarray(to_open), np.maximum(measuring, shortest)


def opening(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """What opening a session is expected to take, in seconds: to start its process and to
    prepare its engine, by what others took."""
    start, prepare = starting(observations), preparing(observations)
    return lambda config: start(config) + prepare(config)


def starting(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """The process's part: nothing where one with the same settings was started lately."""
    first: dict[Config, float] = {}
    recent: list[Config] = []
    for o in observations:
        if o.preparing_s is not None:
            settings = o.config.only(PROCESS_KNOBS)
            first.setdefault(settings, o.starting_s)
            recent = [*(one for one in recent if one != settings), settings][-RECENT:]
    new = statistics.median(first.values()) if first else STARTING_S
    return lambda config: 0.0 if config.only(PROCESS_KNOBS) in recent else new


def preparing(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """The engine's part: as the last time where it was prepared before (what it exported is
    kept), else as others of its precision, or of its mode."""
    last: dict[tuple[object, ...], float] = {}
    by_precision: dict[tuple[object, object], list[float]] = {}
    for o in observations:
        if o.preparing_s is not None:
            last[_engine(o.config)] = o.preparing_s
            kind = (o.config["mode"], o.config["precision"])
            by_precision.setdefault(kind, []).append(o.preparing_s)
    taken = [seconds for some in by_precision.values() for seconds in some]
    typical = statistics.median(taken) if taken else TYPICAL_S

    def expected(config: Config) -> float:
        mode, precision = config["mode"], config["precision"]
        if _engine(config) in last:
            return last[_engine(config)]
        if (mode, precision) in by_precision:
            return statistics.median(by_precision[mode, precision])
        of_mode = [s for (m, _), some in by_precision.items() if m == mode for s in some]
        if of_mode:
            return statistics.median(of_mode)
        return PREPARING_S.get(str(mode), typical)

    return expected


def _engine(config: Config) -> tuple[object, ...]:
    return config["mode"], config["precision"], config.get("attention")


def squashed(excess: Array) -> Array:
    """How far beyond the limit, on a scale where what is far beyond differs little."""
    return np.asarray(np.sign(excess) * np.log1p(np.abs(excess)), np.float64)


def within(configs: Sequence[Config], excesses: Array) -> dict[Config, float]:
    """For each engine the standard deviation of its configurations' losses."""
    by_engine: dict[Config, list[float]] = {}
    for config, excess in zip(configs, excesses, strict=True):
        by_engine.setdefault(config.only(ENGINE_KNOBS), []).append(float(excess))
    return {engine: statistics.pstdev(some) for engine, some in by_engine.items()}


def chances(configs: Sequence[Config], excesses: Array) -> dict[Scalar, float]:
    """Of each precision the CHANCE that one more configuration is allowed whatever those lost that
    lost too much. Where all of them lost the same, it goes with the square: nothing suggests that
    another loses less."""
    lost: dict[Scalar, list[float]] = {config["precision"]: [] for config in configs}
    for config, excess in zip(configs, excesses, strict=True):
        if excess > 0:
            lost[config["precision"]].append(float(excess))
    return {
        precision: CHANCE / (1 + len(some)) ** (2 if len(set(some)) == 1 else 1)
        for precision, some in lost.items()
    }


def allowed_probability(excess: Array, spread: Array, apart: Array) -> Array:
    """That a loss is within the limit, which is expected to be `excess` with the deviation
    `spread`, for an engine whose losses are `apart` from each other.

    Where its rounding depends on what is in a batch there may be batches that keep all answers,
    however few: the more of the deviation that is, the heavier the tails.
    """
    whole = np.hypot(spread, apart)
    z, heavy = -excess / whole, apart / whole
    return np.asarray(heavy * student_cdf(z) + (1 - heavy) * normal_cdf(z), np.float64)


def student_cdf(x: Array) -> Array:
    """Student's t distribution function with three degrees of freedom: the tails of a normal
    whose variance few samples tell."""
    y = x / math.sqrt(3)
    return np.asarray(0.5 + (np.arctan(y) + y / (1 + y**2)) / math.pi, np.float64)


def normal_cdf(x: Array) -> Array:
    """The standard normal distribution function."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """E[max(value - best, 0)] of normal values (Jones et al., 1998)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Array = deviation * (z * normal_cdf(z) + density)
    return np.maximum(found, 0.0)
