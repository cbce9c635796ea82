"""The tuner and its surrogate on made-up functions whose best configuration is known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from bench_search import SMALL
from fakes import pass_seconds, surroundings

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.surrogate import Encoder, Surrogate
from autotune.search.tuner import (
    DEFAULT_PREPARING_S,
    DEFAULT_STARTING_S,
    Observation,
    Tuner,
    allowed_probability,
    engine_deviations,
    expect_preparing_s,
    expect_starting_s,
    expected_improvement,
    probability_floors,
    signed_log,
)
from autotune.shared.records import Config
from autotune.space import compile_space, load_space


@pytest.fixture(scope="module")
def space():
    return compile_space(load_space(SMALL), surroundings())


def observed(config, excess=-1.0, speed="made-up", preparing_s=5.0):
    seconds = pass_seconds(config)
    return Observation(
        config=config,
        speed=-math.log(seconds) if speed == "made-up" else speed,
        excess=excess,
        preparing_s=preparing_s,
        measuring_s=seconds,
    )


def wrong(config):
    return 2.0 if config["precision"] == "int8_dynamic" else -1.0


def search(space, tuner, steps, excess=wrong):
    everything = list(space.configs())
    seen = [observed(c, excess(c)) for c in random.Random(0).sample(everything, 6)]
    for _ in range(steps):
        config = tuner.propose(seen, lambda c: True, open_session=None)
        assert config not in {o.config for o in seen}
        seen.append(observed(config, excess(config)))
    return seen


def test_it_finds_the_best_allowed_configuration_in_few_steps(space):
    best = min(pass_seconds(c) for c in space.configs() if wrong(c) <= 0)
    gaps = []
    for seed in range(4):
        seen = search(space, Tuner(space, seed=seed), 20)
        gaps.append(min(pass_seconds(o.config) for o in seen if o.allowed) / best - 1)
    assert sorted(gaps)[1] < 0.01
    assert max(gaps) < 0.15


def test_it_learns_to_avoid_configurations_that_the_gate_rejects(space):
    seen = search(space, Tuner(space, seed=0), 20)
    assert sum(o.excess > 0 for o in seen[6:]) <= 6


def test_the_same_seed_proposes_the_same(space):
    one, other = (search(space, Tuner(space, seed=3), 5) for _ in range(2))
    assert [o.config for o in one] == [o.config for o in other]


def test_a_point_of_the_open_session_is_preferred_if_opening_is_expensive(space):
    seen = [
        observed(c, preparing_s=500.0) for c in random.Random(1).sample(list(space.configs()), 8)
    ]
    session = seen[-1].config.only(SESSION_KNOBS)
    config = Tuner(space, seed=0).propose(seen, lambda c: True, open_session=session)
    assert config.only(SESSION_KNOBS) == session


def test_the_seconds_of_preparing_are_learnt_by_engine_and_compilers_take_long():
    def opened(mode, precision, seconds):
        config = Config.of({"mode": mode, "precision": precision})
        return Observation(
            config=config, speed=1.0, excess=-1.0, preparing_s=seconds, measuring_s=1.0
        )

    seen = [opened("jit", "fp32", 2.0), opened("jit", "bf16", 4.0), opened("eager", "fp32", 1.0)]
    expected = expect_preparing_s(seen)

    def cost(mode, precision):
        return expected(Config.of({"mode": mode, "precision": precision}))

    assert (cost("jit", "fp32"), cost("jit", "bf16"), cost("jit", "int8_dynamic")) == (2, 4, 3)
    assert cost("openvino", "fp32") == 2.0
    assert cost("inductor", "bf16") > 20
    assert (
        expect_preparing_s([])(Config.of({"mode": "jit", "precision": "fp32"}))
        == DEFAULT_PREPARING_S
    )


def test_an_engine_is_expected_to_take_as_long_to_prepare_as_the_last_time():
    config = Config.of({"mode": "openvino", "precision": "int8_static", "attention": "sdpa"})
    first, again = (
        Observation(config=config, speed=1.0, excess=-1.0, preparing_s=s, measuring_s=1.0)
        for s in (14.0, 0.5)
    )
    assert expect_preparing_s([first])(config) == 14.0
    assert expect_preparing_s([first, again])(config) == 0.5


def test_processes_with_new_settings_cost_and_recent_ones_do_not():
    def opened(threads, seconds):
        config = Config.of({"mode": "jit", "precision": "fp32", "threads": threads})
        return Observation(
            config=config,
            speed=1.0,
            excess=-1.0,
            preparing_s=0.0,
            measuring_s=1.0,
            starting_s=seconds,
        )

    def cost(seen, threads):
        return expect_starting_s(seen)(
            Config.of({"mode": "jit", "precision": "fp32", "threads": threads})
        )

    assert cost([], 1) == DEFAULT_STARTING_S
    seen = [opened(n, float(n)) for n in (1, 2, 3, 4)]
    assert [cost(seen, n) for n in (1, 2, 3, 4, 5)] == [2.5, 0.0, 0.0, 0.0, 2.5]
    assert cost([*seen, opened(1, 0.0)], 1) == 0.0
    assert cost([*seen, opened(1, 0.0)], 2) == 2.5


def test_only_usable_configurations_are_proposed(space):
    seen = [observed(c) for c in random.Random(1).sample(list(space.configs()), 8)]
    only = next(c for c in space.configs() if c not in {o.config for o in seen})
    tuner = Tuner(space, seed=0)
    assert tuner.propose(seen, lambda c: c == only, open_session=None) == only
    assert tuner.propose(seen, lambda c: False, open_session=None) is None


def test_something_is_proposed_if_all_but_one_failed(space):
    configs = random.Random(2).sample(list(space.configs()), 3)
    seen = [observed(configs[0]), *(observed(c, 3.0, speed=None) for c in configs[1:])]
    assert Tuner(space, seed=0).propose(seen, lambda c: True, open_session=None) is not None


def test_a_surrogate_fits_known_values_and_is_less_certain_of_others(space):
    configs = random.Random(4).sample(list(space.configs()), 60)
    encoder = Encoder(space)
    rows = encoder.encode(configs)
    values = np.array([-math.log(pass_seconds(c)) for c in configs])
    surrogate = Surrogate(encoder, mean=None, seed=0)
    surrogate.fit(rows[:50], values[:50])
    mean, deviation = surrogate.predict(rows)
    assert np.abs(mean[:50] - values[:50]).max() < 0.1
    assert np.abs(mean[50:] - values[50:]).mean() < 0.3 * values.std()
    assert deviation[50:].mean() > deviation[:50].mean()


def test_the_distance_from_the_first_to_the_last_number_is_one(space):
    encoder = Encoder(space)
    configs = list(space.configs())
    most = max(int(c["batch_size"]) for c in configs)
    one = next(c for c in configs if c["padding"] == "longest" and c["batch_size"] == 1)
    other = next(c for c in configs if dict(c) == {**one, "batch_size": most})
    a, b = encoder.encode([one, other])
    assert a @ encoder.distances @ b == 1.0
    assert a @ encoder.distances @ a == 0.0


def test_expected_improvement_is_zero_for_a_sure_loss_and_the_gain_for_a_sure_gain():
    gains = expected_improvement(np.array([-1.0, 1.0]), np.array([1e-3, 1e-3]), 0.0)
    assert gains == pytest.approx([0.0, 1.0])


def test_the_signed_logarithm_keeps_order_and_sign():
    found = signed_log(np.array([-1.0, 0.0, 1.0, 20.0]))
    assert found[1] == 0
    assert (np.diff(found) > 0).all()
    assert found[3] < 4


def test_the_tails_are_of_student_t_if_losses_vary_within_an_engine_and_else_normal():
    mean, varies, sure = np.array([0.0, -3.182446]), np.ones(2), np.full(2, 1e-9)
    assert allowed_probability(mean, sure, varies) == pytest.approx([0.5, 0.975])
    assert allowed_probability(mean, varies, np.zeros(2)) == pytest.approx([0.5, 0.99927], abs=1e-5)


def test_an_engine_is_given_up_if_its_losses_are_all_the_same():
    one, other = Config.of({"mode": "jit"}), Config.of({"mode": "ipex"})
    deviations = engine_deviations([one, one, other, other], np.array([2.0, 2.0, 1.0, 3.0]))
    assert deviations == {one: 0.0, other: 1.0}
    mean, deviation = np.array([2.0, 2.0]), np.array([0.1, 0.1])
    same, varies = allowed_probability(mean, deviation, np.array([0.0, 1.0]))
    assert same < 1e-6
    assert varies > 1e-2


def test_the_probability_floor_falls_faster_if_all_rejections_lost_the_same():
    configs = [Config.of({"mode": "jit", "precision": p}) for p in ("bf16", "int8", "int8")]
    assert probability_floors(configs, np.array([-1.0, 2.0, 3.0])) == {"bf16": 0.5, "int8": 0.5 / 3}
    assert probability_floors(configs, np.array([-1.0, 2.0, 2.0])) == {"bf16": 0.5, "int8": 0.5 / 9}
