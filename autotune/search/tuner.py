"""Proposes what to measure next: the configuration with the largest expected gain a second.

The expected gain is the expected improvement of the speed times the probability that the accuracy
gate allows the configuration. The seconds are those of opening its session and measuring it.

The tuner sees only observations. `search.sampler` reads them from the trials of an Optuna study.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtr

from autotune.driver.runner import ENGINE_KNOBS, POINT_KNOBS, PROCESS_KNOBS, SESSION_KNOBS
from autotune.search.surrogate import Encoder, Surrogate
from autotune.shared.engines import engine_named
from autotune.shared.records import Config, Scalar
from autotune.space import Space

ALL_KNOBS = SESSION_KNOBS | POINT_KNOBS
MAX_ENUMERATED = 5000
"""A space of at most this many configurations is enumerated: all of them are candidates."""
EXPANDED_LEADERS = 6
"""In a larger space, the neighbours of this many leaders are candidates."""
RANDOM_CANDIDATES = 600
"""In a larger space, this many random configurations are candidates too."""
FAILED_EXCESS = 20.0
"""The excess that a failed configuration counts as, in units of the accuracy limit."""
UNKNOWN_EXCESS = -0.5
"""The excess expected of an unknown configuration, as `signed_log` of units of the limit."""
PROBABILITY_FLOOR = 0.5
"""A floor on the probability of being allowed, 0.5 / (1 + rejections of that precision).

0.5 / (1 + n) is the mean of Jeffreys' posterior after n rejections."""
DEFAULT_PREPARING_S = 5.0
"""Expected seconds to prepare an engine of another mode, before any engine was prepared."""
DEFAULT_STARTING_S = 5.0
"""Expected seconds to start a process, before any process was started."""
RECENT_PROCESSES = 3
"""Fork servers are kept for this many settings, the last used. Forking from one costs nothing."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The outcome of one configuration, as the tuner needs it."""

    config: Config
    speed: float | None  # logarithm, larger is better; None: never measured
    excess: float | None  # loss of accuracy beyond the limit, in its units; None: not judged
    preparing_s: float | None  # of the engine; None if the session was already open
    measuring_s: float
    starting_s: float = 0.0  # of the process; 0 if the session was already open
    own: bool = True  # False: another search measured it, in processes and folders of its own

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
        self._neighbours_of: dict[Config, list[Config]] = {}
        self._everything = space.whole(MAX_ENUMERATED)
        self._rows = self._encoder.encode(self._everything or [])

    def propose(
        self,
        observations: Sequence[Observation],
        usable: Callable[[Config], bool],
        *,
        open_session: Config | None,
        remaining_s: float | None = None,
    ) -> Config | None:
        """The configuration with the largest expected gain a second; None if all are known.

        `usable` says whether a configuration may be proposed. `open_session` holds the process and
        engine knobs of the session that is open; to measure a point of it, no session is opened.
        `remaining_s` is the time left: opening a session should use at most half of it, and
        opening and measuring together at most all of it.

        The choice is random until two configurations are measured and one of these is allowed.
        """
        seen = {o.config for o in observations}
        every, rows = self._candidates(observations)
        left = [i for i, config in enumerate(every) if config not in seen and usable(config)]
        candidates, candidate_rows = [every[i] for i in left], rows[left]
        if not candidates:
            return None
        measured = [o for o in observations if o.speed is not None]
        if len(measured) < 2 or not any(o.allowed for o in measured):
            return self._rng.choice(candidates)
        speeds, deviations, best = self._predict_speeds(measured, candidate_rows)
        gains = expected_improvement(speeds, deviations, best)
        probabilities = self._predict_allowed(observations, candidates, candidate_rows)
        opening_s, measuring_s = self._costs(candidates, observations, speeds, open_session)
        score = np.log(gains * probabilities + 1e-300)
        if any(o.measuring_s > 0 for o in observations):  # else no cost is known
            score -= np.log(opening_s + measuring_s)
        if remaining_s is not None:
            late = (2 * opening_s > remaining_s) | (opening_s + measuring_s > remaining_s)
            score[late] -= 1e6
        return candidates[int(score.argmax())]

    def _predict_speeds(
        self, measured: Sequence[Observation], candidate_rows: Array
    ) -> tuple[Array, Array, float]:
        """Mean and standard deviation of the candidates' speeds, and the best allowed speed.

        The best speed is a prediction too, so that one lucky measurement does not set it.
        """
        rows = self._encoder.encode([o.config for o in measured])
        self._speeds.fit(rows, np.array([o.speed for o in measured], float))
        speeds, deviations = self._speeds.predict(candidate_rows)
        allowed_rows = rows[[o.allowed for o in measured]]
        return speeds, deviations, float(self._speeds.predict(allowed_rows)[0].max())

    def _predict_allowed(
        self,
        observations: Sequence[Observation],
        candidates: Sequence[Config],
        candidate_rows: Array,
    ) -> Array:
        """The probability that the accuracy gate allows each of the candidates."""
        excess_of = {o.config: FAILED_EXCESS if o.speed is None else o.excess for o in observations}
        judged = {config: excess for config, excess in excess_of.items() if excess is not None}
        configs = list(judged)
        excesses = signed_log(np.clip(np.array(list(judged.values()), float), -1.0, FAILED_EXCESS))
        self._excesses.fit(self._encoder.encode(configs), excesses)
        mean, deviation = self._excesses.predict(candidate_rows)
        by_engine = engine_deviations(configs, excesses)
        within_engine = [by_engine.get(config.only(ENGINE_KNOBS), 0.0) for config in candidates]
        floor_of = probability_floors(configs, excesses)
        floors = [floor_of.get(config["precision"], PROBABILITY_FLOOR) for config in candidates]
        return np.maximum(allowed_probability(mean, deviation, np.array(within_engine)), floors)

    def _candidates(self, observations: Sequence[Observation]) -> tuple[list[Config], Array]:
        """Configurations to choose among, and their encoded rows.

        In a large space: neighbours of the leaders, some neighbours of those around the two best,
        and random configurations.
        """
        if self._everything is not None:
            return self._everything, self._rows
        ranked = sorted(
            (o for o in observations if o.allowed and self._space.contains(o.config)),
            key=lambda o: o.speed or 0.0,
            reverse=True,
        )
        found: dict[Config, None] = {}
        for leader in ranked[:EXPANDED_LEADERS]:
            found.update(dict.fromkeys(self._neighbours(leader.config)))
        for leader in ranked[:2]:
            for near in self._neighbours(leader.config):
                others = self._neighbours(near)
                found.update(dict.fromkeys(self._rng.sample(others, min(6, len(others)))))
        drawn = (self._space.sample(self._rng) for _ in range(RANDOM_CANDIDATES))
        found.update(dict.fromkeys(drawn))
        return list(found), self._encoder.encode(list(found))

    def _neighbours(self, config: Config) -> list[Config]:
        """Kept, because most leaders of one proposal are leaders of the next one too."""
        if config not in self._neighbours_of:
            self._neighbours_of[config] = self._space.neighbours(config, ALL_KNOBS)
        return self._neighbours_of[config]

    def _costs(
        self,
        candidates: Sequence[Config],
        observations: Sequence[Observation],
        speeds: Array,
        open_session: Config | None,
    ) -> tuple[Array, Array]:
        """Expected seconds of each candidate to open its session, and to measure it.

        `speeds` are the candidates' expected speeds.
        """
        sessions = [config.only(SESSION_KNOBS) for config in candidates]
        expected_s = expect_opening_s(observations)
        opening_s = [
            0.0 if session == open_session else expected_s(session) for session in sessions
        ]
        # A slow pass takes long to measure: seconds times speed is about constant.
        log_work = [
            math.log(o.measuring_s) + o.speed
            for o in observations
            if o.speed is not None and o.measuring_s > 0
        ]
        measuring_s = np.exp((statistics.median(log_work) if log_work else 0.0) - speeds)
        shortest_s = min((o.measuring_s for o in observations if o.measuring_s > 0), default=0.1)
        return np.asarray(opening_s), np.maximum(measuring_s, shortest_s)


def expect_opening_s(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """A function from a configuration to the expected seconds of opening its session.

    Opening starts a process and prepares an engine.
    """
    starting_s, preparing_s = expect_starting_s(observations), expect_preparing_s(observations)
    return lambda config: starting_s(config) + preparing_s(config)


def expect_starting_s(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """A function from a configuration to the expected seconds of starting its process.

    Processes with recently used settings are forked from a fork server, which costs nothing.
    For others it is the median over all settings of what their first process took.
    """
    first_s: dict[Config, float] = {}
    recent: list[Config] = []
    for o in observations:
        if o.preparing_s is not None and o.own:
            settings = o.config.only(PROCESS_KNOBS)
            first_s.setdefault(settings, o.starting_s)
            recent = [*(one for one in recent if one != settings), settings][-RECENT_PROCESSES:]
    new_s = statistics.median(first_s.values()) if first_s else DEFAULT_STARTING_S
    return lambda config: 0.0 if config.only(PROCESS_KNOBS) in recent else new_s


def expect_preparing_s(observations: Sequence[Observation]) -> Callable[[Config], float]:
    """A function from a configuration to the expected seconds of preparing its engine.

    The first of these that is known: what the same engine took the last time in this search (its
    exported form is kept), the median of its mode and precision, the median of its mode, what the
    descriptor of the engine expects (`preparing_s`), the median of all engines,
    DEFAULT_PREPARING_S.
    """
    last_s: dict[tuple[object, ...], float] = {}
    by_precision: dict[tuple[object, object], list[float]] = {}
    for o in observations:
        if o.preparing_s is not None:
            if o.own:
                last_s[_engine(o.config)] = o.preparing_s
            kind = (o.config["mode"], o.config["precision"])
            by_precision.setdefault(kind, []).append(o.preparing_s)
    all_s = [seconds for some in by_precision.values() for seconds in some]
    typical_s = statistics.median(all_s) if all_s else DEFAULT_PREPARING_S

    def expected_s(config: Config) -> float:
        mode, precision = config["mode"], config["precision"]
        if _engine(config) in last_s:
            return last_s[_engine(config)]
        if (mode, precision) in by_precision:
            return statistics.median(by_precision[mode, precision])
        of_mode = [s for (m, _), some in by_precision.items() if m == mode for s in some]
        if of_mode:
            return statistics.median(of_mode)
        prior_s = engine_named(mode).preparing_s
        return typical_s if prior_s is None else prior_s

    return expected_s


def _engine(config: Config) -> tuple[object, ...]:
    return config["mode"], config["precision"], config.get("attention")


def signed_log(excess: Array) -> Array:
    """sign(x) log(1 + |x|): far beyond the limit, differences count little."""
    return np.asarray(np.sign(excess) * np.log1p(np.abs(excess)), np.float64)


def engine_deviations(configs: Sequence[Config], excesses: Array) -> dict[Config, float]:
    """For each engine, the standard deviation of its configurations' excesses."""
    by_engine: dict[Config, list[float]] = {}
    for config, excess in zip(configs, excesses, strict=True):
        by_engine.setdefault(config.only(ENGINE_KNOBS), []).append(float(excess))
    return {engine: statistics.pstdev(some) for engine, some in by_engine.items()}


def probability_floors(configs: Sequence[Config], excesses: Array) -> dict[Scalar, float]:
    """For each precision, a floor on the probability that its next configuration is allowed.

    The floor is 0.5 / (1 + rejections of that precision). If all rejections lost the same, 1 +
    rejections is squared, because nothing suggests that the next one loses less.
    """
    rejected: dict[Scalar, list[float]] = {config["precision"]: [] for config in configs}
    for config, excess in zip(configs, excesses, strict=True):
        if excess > 0:
            rejected[config["precision"]].append(float(excess))
    return {
        precision: PROBABILITY_FLOOR / (1 + len(some)) ** (2 if len(set(some)) == 1 else 1)
        for precision, some in rejected.items()
    }


def allowed_probability(mean: Array, deviation: Array, within_engine: Array) -> Array:
    """The probability that an excess is at most 0: that the accuracy loss is within the limit.

    `mean` and `deviation` are those of the predicted excess. `within_engine` is the standard
    deviation of the excesses that were seen of the same engine. If these vary, rounding depends on
    what is in a batch, and a few configurations may keep all answers. So the distribution mixes a
    normal one with Student's t with three degrees of freedom, whose tails are heavier. The share
    of Student's t is the share of `within_engine` in the whole deviation.
    """
    whole = np.hypot(deviation, within_engine)
    z, heavy = -mean / whole, within_engine / whole
    return np.asarray(heavy * stdtr(3, z) + (1 - heavy) * ndtr(z), np.float64)


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """E[max(value - best, 0)] of normally distributed values (Jones et al., 1998)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Array = deviation * (z * ndtr(z) + density)
    return np.maximum(found, 0.0)
