"""The tuner as a sampler of Optuna's, and other samplers in its place."""

from __future__ import annotations

import importlib.util

import optuna
import pytest
from bench_search import SMALL, Bench
from fakes import FakeRunner, pass_seconds, surroundings
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autotune.driver.runner import SESSION_KNOBS, Outcome
from autotune.search.ranking import OTHERS, SEARCHED
from autotune.search.sampler import AutotuneSampler, suggested
from autotune.search.samplers import (
    REFUSED,
    SAMPLERS,
    check_sampler,
    make_sampler,
    sampler_seed,
)
from autotune.search.study import Study
from autotune.search.told import ACCURACY, COSTS, RUN, Costs, Told, known
from autotune.shared.errors import InputError
from autotune.shared.records import Config, Failure, Screen
from autotune.space import compile_space, load_space
from autotune.store.journal import read_trials

SPACE = compile_space(load_space(SMALL), surroundings())
COST_NAMES = ("starting_s", "preparing_s", "measuring_s")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def wrong(config):
    return config["precision"] == "int8_dynamic"


def toy(trial):
    """Speed on the made-up machine, for a study without a search."""
    config = suggested(SPACE, trial)
    trial.set_constraint(ACCURACY, 1.0 if wrong(config) else -1.0)
    return 1 / pass_seconds(config)


def optimized(sampler, trials, objective=toy):
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(objective, n_trials=trials)
    return study


def configs_of(study):
    return [suggested(SPACE, optuna.trial.FixedTrial(t.params)) for t in study.trials]


def test_it_is_a_sampler_of_any_study():
    study = optimized(AutotuneSampler(SPACE, seed=0), 30)
    configs = configs_of(study)
    assert all(SPACE.contains(config) for config in configs)
    assert len(set(configs)) == 30
    best = min(pass_seconds(c) for c in SPACE.configs() if not wrong(c))
    assert 1 / study.best_value <= 1.05 * best


def test_the_same_seed_suggests_the_same_and_another_seed_does_not():
    one, same, other = (configs_of(optimized(AutotuneSampler(SPACE, seed=s), 8)) for s in (1, 1, 2))
    assert one == same != other


def test_a_value_may_be_negative_and_a_trial_may_fail_or_be_pruned():
    def objective(trial):
        config = suggested(SPACE, trial)
        if config["mode"] == "jit":
            raise optuna.TrialPruned
        if config["mode"] == "ipex":
            raise ValueError
        return -pass_seconds(config)

    study = optuna.create_study(sampler=AutotuneSampler(SPACE, seed=0), direction="maximize")
    study.optimize(objective, n_trials=25, catch=ValueError)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert len(set(configs_of(study))) == 25


def test_everything_is_suggested_once_before_anything_twice():
    few = compile_space(
        load_space(SMALL),
        surroundings(),
        overrides={"mode": ["jit"], "precision": ["fp32"], "padding": ["longest"], "threads": [4]},
    )
    every = set(few.configs())
    study = optimized(
        AutotuneSampler(few, seed=0),
        len(every) + 1,
        lambda trial: 1 / pass_seconds(suggested(few, trial)),
    )
    found = [suggested(few, optuna.trial.FixedTrial(t.params)) for t in study.trials]
    assert set(found) == set(found[:-1]) == every
    assert 1 < len(every) < 30


def study_of(sampler):
    return optuna.create_study(sampler=sampler, direction="maximize")


def test_other_parameters_and_trials_without_the_knobs_do_no_harm():
    def objective(trial):
        trial.suggest_float("temperature", 0, 1)
        if trial.number % 5 == 1:
            return 1.0
        return 1 / pass_seconds(suggested(SPACE, trial))

    study = optimized(AutotuneSampler(SPACE, seed=0), 20, objective)
    whole = [t for t in study.trials if t.number % 5 != 1]
    assert len({suggested(SPACE, optuna.trial.FixedTrial(t.params)) for t in whole}) == 16
    assert len(known(study.trials, space=SPACE, run=None, host=None)) == 16


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_value_counts_as_a_failure(value):
    def objective(trial):
        config = suggested(SPACE, trial)
        return value if config["mode"] == "jit" else 1 / pass_seconds(config)

    sampler = AutotuneSampler(SPACE, seed=0)
    study = optimized(sampler, 16, objective)
    assert len(set(configs_of(study))) == 16
    found = known(study.trials, space=SPACE, run=None, host=None)
    infinite = [one for one in found if one.config["mode"] == "jit"]
    assert infinite
    assert all(one.value is None and one.excess is None for one in infinite)


def test_trials_of_searches_are_own_to_a_sampler_without_a_run():
    study = study_of(AutotuneSampler(SPACE, seed=0))
    trial = study.ask()
    suggested(SPACE, trial)
    trial.set_user_attr(RUN, "theirs")
    trial.set_user_attr(COSTS, {**dict.fromkeys(COST_NAMES, 1.0), "left_open": True})
    study.tell(trial, 1.0)
    assert [one.own for one in known(study.trials, space=SPACE, run=None, host=None)] == [True]
    assert [one.own for one in known(study.trials, space=SPACE, run="mine", host=None)] == [False]


def test_a_choice_whose_parameters_are_not_in_the_study_yet_is_not_made_again():
    few = compile_space(
        load_space(SMALL),
        surroundings(),
        overrides={"mode": ["jit"], "precision": ["fp32"], "padding": ["longest"], "threads": [4]},
    )
    every = list(few.configs())
    sampler = AutotuneSampler(few, seed=0)
    study = study_of(sampler)
    space = sampler.infer_relative_search_space(study, None)
    trials = [study._storage.get_trial(study.ask()._trial_id) for _ in every]
    chosen = [sampler.sample_relative(study, trial, space) for trial in trials]
    assert len({Config.of(params) for params in chosen}) == len(every)
    assert len(sampler._chosen) == len(every)


def test_a_choice_is_forgotten_once_its_trial_has_parameters():
    study = optimized(AutotuneSampler(SPACE, seed=0), 4)
    assert len(study.sampler._chosen) == 1  # the last one


@pytest.mark.parametrize("session_open", [True, False])
def test_a_session_is_cheap_only_while_it_is_open(session_open, monkeypatch):
    sampler = AutotuneSampler(SPACE, seed=0)
    study = study_of(sampler)
    trial = study.ask()
    config = suggested(SPACE, trial)
    trial.set_user_attr(COSTS, {**dict.fromkeys(COST_NAMES, 1.0), "left_open": True})
    study.tell(trial, 1.0)
    given = []

    def propose(*args, open_session, **more):
        given.append(open_session)

    monkeypatch.setattr(sampler._tuner, "propose", propose)
    sampler.narrow(lambda config: True, None, session_open=session_open)
    suggested(SPACE, study.ask())
    assert given == [config.only(SESSION_KNOBS) if session_open else None]


def test_threads_share_the_sampler():
    study = study_of(AutotuneSampler(SPACE, seed=0))
    study.optimize(toy, n_trials=24, n_jobs=4)
    assert len(set(configs_of(study))) == 24


def test_a_seed_is_mixed_with_the_run_only_where_a_storage_is_shared():
    assert sampler_seed(7, shared_by=None) == 7
    seeds = [sampler_seed(seed, shared_by=run) for seed in (7, 8) for run in ("a", "b")]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sampler_seed(7, shared_by="a") == seeds[0]


def test_several_objectives_are_refused():
    study = optuna.create_study(
        sampler=AutotuneSampler(SPACE, seed=0), directions=["maximize", "minimize"]
    )
    with pytest.raises(ValueError, match="one objective"):
        suggested(SPACE, study.ask())


def test_what_another_process_measured_teaches_this_one():
    """All its trials are in the study, so they are neither suggested again nor forgotten."""
    storage = InMemoryStorage()
    theirs, mine = (
        Study(
            SPACE,
            storage=storage,
            group="s",
            sampler=make_sampler("autotune", SPACE, seed=0, run=run, host="here"),
            maximize=True,
            run=run,
            host="here",
        )
        for run in ("theirs", "mine")
    )
    measured = [c for c in SPACE.configs() if c["mode"] != "ipex_jit" or c["precision"] != "bf16"]
    theirs.add(
        [
            Told(
                number=number,
                config=config,
                value=1 / pass_seconds(config),
                excess=1.0 if wrong(config) else -1.0,
                costs=Costs(
                    starting_s=1.0,
                    preparing_s=1.0,
                    measuring_s=pass_seconds(config),
                    left_open=True,
                ),
            )
            for number, config in enumerate(measured[::20])
        ]
    )
    first = mine.ask().config
    assert first not in measured[::20]
    typical = sorted(pass_seconds(c) for c in SPACE.configs() if not wrong(c))
    assert pass_seconds(first) < typical[len(typical) // 10]  # among the best tenth, at once


def by_hand(sampler, found, maximize=True):
    """What Optuna suggests to someone who asks and tells by hand, as long as it is in `found`.

    `found` maps each configuration to its trial in the journal. Suggestions that cannot run are
    pruned, repeated ones failed.
    """
    study = optuna.create_study(sampler=sampler, direction="maximize" if maximize else "minimize")
    baselines = [t for t in found.values() if t.origin not in OTHERS]
    for trial in baselines:
        study.add_trial(
            optuna.trial.create_trial(
                value=10 / trial.measurement.passes[0].total_s,
                params=dict(trial.config),
                distributions={
                    d.name: optuna.distributions.CategoricalDistribution(d.choices)
                    for d in SPACE.dimensions
                    if d.name in trial.config
                },
                constraints={ACCURACY: -1.0},
            )
        )
    told, suggestions = {t.config for t in baselines}, []
    while len(told) < len(found):
        trial = study.ask()
        config = suggested(SPACE, trial)
        if SPACE.violation(config) is not None:
            study.tell(trial, state=TrialState.PRUNED)
        elif config in told:
            study.tell(trial, state=TrialState.FAIL)
        else:
            suggestions.append(config)
            if config not in found:
                break
            told.add(config)
            limit = 0.01
            drop = found[config].accuracy.relative_drop
            trial.set_constraint(ACCURACY, (drop - limit) / limit)
            study.tell(trial, 10 / found[config].measurement.passes[0].total_s)
    return suggestions


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_what_optuna_suggests_is_what_is_measured(bench, name, monkeypatch):
    monkeypatch.setattr("autotune.search.loop.PRIORS_FIRST", 0)
    monkeypatch.setattr("autotune.search.loop.OTHER_PRIORS_AFTER", 2.0)
    monkeypatch.setattr("autotune.search.loop.MAX_REFUSED", 10**6)
    bench.search(FakeRunner(), trials=20, seed=5, sampler=name)
    journal = [t for t in read_trials(bench.folder / "trials.jsonl") if t.origin in SEARCHED]
    measured = [t.config for t in journal if t.origin == "search"]
    made = {"random": RandomSampler, "tpe": TPESampler}[name](seed=5)
    assert len(measured) == 19
    assert by_hand(made, {t.config: t for t in journal}) == measured


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="Optuna's Gaussian process needs torch"
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_torch) if n == "gp" else n for n in SAMPLERS]
)
def test_a_search_with_any_sampler_ends_well(bench, name):
    result = bench.search(FakeRunner(), trials=14, sampler=name)
    searched = [t.config for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == len(set(searched)) == 15
    assert result.significant
    assert result.best.origin == "final"
    assert not wrong(result.best.config)
    told = [t for t in bench.study.trials if t.state == TrialState.COMPLETE]
    assert {suggested(SPACE, optuna.trial.FixedTrial(t.params)) for t in told} == set(searched)


class Stuck(BaseSampler):
    """Suggests the same for ever."""

    def __init__(self, config):
        self.config = config

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return self.config.get(name, distribution.choices[0])


@pytest.mark.parametrize("possible", [True, False])
def test_a_sampler_that_is_stuck_does_not_stop_the_search(bench, possible, monkeypatch):
    config = next(SPACE.configs())
    if not possible:
        config = next(c for c in SPACE.combinations() if SPACE.violation(c) is not None)
    monkeypatch.setattr("bench_search.make_sampler", lambda *args, **more: Stuck(config))
    result = bench.search(FakeRunner(), trials=12)
    searched = [t.config for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == len(set(searched)) == 13
    refused = [t for t in bench.study.trials if "refused" in t.user_attrs]
    assert refused
    assert {t.state for t in refused} == {TrialState.FAIL if possible else TrialState.PRUNED}
    if not possible:
        assert {t.user_attrs["refused"] for t in refused} == {SPACE.violation(config)}


def test_with_any_sampler_a_space_is_searched_until_it_is_exhausted(bench):
    overrides = ["mode=jit", "precision=fp32", "attention=sdpa", "threads=4", "padding=longest"]
    result = bench.search(FakeRunner(), trials=500, overrides=overrides, sampler="random")
    others = [t.config for t in result.trials if t.origin in OTHERS]
    assert len(others) == len(set(others)) == 6


class Screening(FakeRunner):
    """Screens out what is slower than the leader."""

    def run(self, config, rule):
        outcome, seconds = super().run(config, rule), pass_seconds(config)
        if rule.rung != "first" or rule.leader_s is None or seconds <= 1.15 * rule.leader_s:
            return outcome
        screen = Screen(
            batches=(0,),
            batch_s=(seconds / 10,),
            pass_s=seconds,
            phases_s=outcome.measurement.phases_s,
        )
        return Outcome(screen=screen, failure=Failure(kind="slow", detail="screened out"))


def test_screened_configurations_are_pruned_and_the_tuner_learns_their_estimate(bench):
    result = bench.search(Screening(), trials=16)
    screened = {t.config: t for t in result.trials if t.screen is not None}
    assert screened
    pruned = [t for t in bench.study.trials if t.state == TrialState.PRUNED]
    found = {suggested(SPACE, optuna.trial.FixedTrial(t.params)): t.value for t in pruned}
    assert found == {config: pytest.approx(10 / pass_seconds(config)) for config in screened}
    seen = {o.config: o for o in bench.study.observations()}
    assert all(seen[config].speed is not None for config in screened)
    assert all(seen[config].excess is None for config in screened)


@pytest.mark.parametrize("name", ["autotune", "random"])
def test_a_resumed_search_has_the_study_of_the_one_that_stopped(bench, name):
    bench.search(Screening(), trials=12, sampler=name)
    before = bench.study
    bench.search(Screening(), trials=12, sampler=name)
    after = bench.study
    assert after is not before
    assert after.observations() == before.observations()
    measured = [t for t in before.trials if "refused" not in t.user_attrs]
    one, other = (
        [(t.state, t.params, t.value, t.constraints, t.user_attrs) for t in trials]
        for trials in (measured, after.trials)
    )
    assert one == other
    assert len(one) == 13
    result = bench.search(Screening(), trials=15, sampler=name)
    searched = [t.config for t in result.trials if t.origin in SEARCHED]
    assert len(searched) == len(set(searched)) == 16


def test_costs_and_host_are_attributes_of_every_trial(bench):
    result = bench.search(FakeRunner(), trials=12)
    searched = [t for t in result.trials if t.origin in SEARCHED]
    attributes = [t.user_attrs for t in bench.study.trials]
    assert [a["trial"] for a in attributes] == [t.number for t in searched]
    assert {a["host"] for a in attributes} == {"here"}
    assert {a["run"] for a in attributes} == {"test"}
    costs = [Costs(**a["costs"]) for a in attributes]
    assert all(cost.left_open for cost in costs)
    assert all(cost.measuring_s > 0 for cost in costs)
    assert any(cost.preparing_s is None for cost in costs)  # a point of the session before it
    assert any(cost.preparing_s is not None for cost in costs)


def test_the_trials_of_another_host_are_not_used():
    storage = InMemoryStorage()

    def study(host, run):
        return Study(
            SPACE,
            storage=storage,
            group="s",
            sampler=make_sampler("autotune", SPACE, seed=0, run=run, host=host),
            maximize=True,
            run=run,
            host=host,
        )

    costs = Costs(starting_s=1.0, preparing_s=1.0, measuring_s=1.0, left_open=True)
    told = Told(number=0, config=SPACE.priors[0], value=1.0, excess=-1.0, costs=costs)
    study("there", "theirs").add([told])
    assert study("here", "mine").observations() == []
    assert len(study("there", "mine").observations()) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_sampler_that_cannot_choose_among_values_is_refused_with_the_reason(name):
    with pytest.raises(InputError, match=f"--sampler {name}: .*known: autotune") as caught:
        check_sampler(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_sampler_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean random") as caught:
        make_sampler("randon", SPACE, seed=0)
    assert "\n" not in str(caught.value)


def test_gp_without_torch_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gp: .* needs torch"):
        check_sampler("gp")
