"""What to measure next, on made-up functions whose answer is known."""

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


def test_it_learns_to_stay_away_from_what_is_not_allowed(space):
    seen = search(space, Tuner(space, seed=0), 20)
    assert sum(o.excess > 0 for o in seen[6:]) <= 6


def test_the_same_seed_proposes_the_same(space):
    one, other = (search(space, Tuner(space, seed=3), 5) for _ in range(2))
    assert [o.config for o in one] == [o.config for o in other]


def test_a_point_of_the_open_session_is_preferred_where_gains_are_alike(space):
    seen = [
        observed(c, preparing_s=500.0) for c in random.Random(1).sample(list(space.configs()), 8)
    ]
    session = seen[-1].config.only(SESSION_KNOBS)
    config = Tuner(space, seed=0).propose(seen, lambda c: True, open_session=session)
    assert config.only(SESSION_KNOBS) == session


def test_what_opening_costs_is_learnt_by_engine_and_compilers_take_long():
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


def test_an_engine_that_was_prepared_before_costs_what_it_did_the_last_time():
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


def test_nothing_is_proposed_that_may_not_be_used(space):
    seen = [observed(c) for c in random.Random(1).sample(list(space.configs()), 8)]
    only = next(c for c in space.configs() if c not in {o.config for o in seen})
    tuner = Tuner(space, seed=0)
    assert tuner.propose(seen, lambda c: c == only, open_session=None) == only
    assert tuner.propose(seen, lambda c: False, open_session=None) is None


def test_failures_alone_are_enough_to_go_on(space):
    configs = random.Random(2).sample(list(space.configs()), 3)
    seen = [observed(configs[0]), *(observed(c, 3.0, speed=None) for c in configs[1:])]
    assert Tuner(space, seed=0).propose(seen, lambda c: True, open_session=None) is not None


def test_a_surrogate_goes_through_what_it_was_told_and_doubts_the_rest(space):
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


def test_distances_are_by_place_for_numbers_and_by_difference_for_words(space):
    encoder = Encoder(space)
    configs = list(space.configs())
    most = max(int(c["batch_size"]) for c in configs)
    one = next(c for c in configs if c["padding"] == "longest" and c["batch_size"] == 1)
    other = next(c for c in configs if c.as_dict() == {**one.as_dict(), "batch_size": most})
    a, b = encoder.encode([one, other])
    assert a @ encoder.distances @ b == 1.0
    assert a @ encoder.distances @ a == 0.0


def test_expected_improvement_of_a_sure_loss_is_nothing_and_of_a_sure_gain_the_gain():
    gains = expected_improvement(np.array([-1.0, 1.0]), np.array([1e-3, 1e-3]), 0.0)
    assert gains == pytest.approx([0.0, 1.0])


def test_losses_on_their_scale_keep_order_and_sign():
    found = signed_log(np.array([-1.0, 0.0, 1.0, 20.0]))
    assert found[1] == 0
    assert (np.diff(found) > 0).all()
    assert found[3] < 4


def test_an_engine_whose_losses_alone_vary_has_the_tails_of_three_degrees_of_freedom():
    mean, varies, sure = np.array([0.0, -3.182446]), np.ones(2), np.full(2, 1e-9)
    assert allowed_probability(mean, sure, varies) == pytest.approx([0.5, 0.975])
    assert allowed_probability(mean, varies, np.zeros(2)) == pytest.approx([0.5, 0.99927], abs=1e-5)


def test_an_engine_that_always_loses_the_same_is_given_up_and_one_that_varies_is_not():
    one, other = Config.of({"mode": "jit"}), Config.of({"mode": "ipex"})
    deviations = engine_deviations([one, one, other, other], np.array([2.0, 2.0, 1.0, 3.0]))
    assert deviations == {one: 0.0, other: 1.0}
    excess, spread = np.array([2.0, 2.0]), np.array([0.1, 0.1])
    same, varies = allowed_probability(excess, spread, np.array([0.0, 1.0]))
    assert same < 1e-6
    assert varies > 1e-2


def test_a_precision_whose_losses_vary_keeps_a_chance_and_one_that_loses_the_same_does_not():
    configs = [Config.of({"mode": "jit", "precision": p}) for p in ("bf16", "int8", "int8")]
    assert probability_floors(configs, np.array([-1.0, 2.0, 3.0])) == {"bf16": 0.5, "int8": 0.5 / 3}
    assert probability_floors(configs, np.array([-1.0, 2.0, 2.0])) == {"bf16": 0.5, "int8": 0.5 / 9}
