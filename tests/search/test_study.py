from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import surroundings

from autotune.driver.runner import SESSION_KNOBS
from autotune.search.samplers import make_sampler
from autotune.search.study import Study, open_storage
from autotune.search.told import Costs, Told
from autotune.shared.errors import InputError
from autotune.shared.records import Config
from autotune.space import compile_space, load_space

SMALL = Path(__file__).parents[1] / "spaces" / "small.yaml"
SPACE = compile_space(load_space(SMALL), surroundings())


NO_COSTS = Costs(starting_s=0.0, preparing_s=None, measuring_s=1.0, left_open=True)


def make(storage, *, run="run", space=SPACE, sampler="autotune", seed=0):
    return Study(
        space,
        storage=storage,
        group="s",
        sampler=make_sampler(sampler, space, seed=seed, run=run),
        maximize=True,
        run=run,
    )


def outcome(config, value, excess=0.0, *, number=0, **rest):
    return Told(number=number, config=config, value=value, excess=excess, costs=NO_COSTS, **rest)


@pytest.fixture
def study(tmp_path):
    return make(open_storage(None, tmp_path / "study.journal"))


def test_an_enqueued_configuration_is_asked_next(study):
    for number, prior in enumerate(SPACE.priors[:3]):
        study.enqueue(prior)
        proposal = study.ask()
        assert proposal.config == prior
        study.tell(proposal, outcome(prior, 1.0, number=number))


def test_every_proposal_is_a_combination_of_the_space(tmp_path):
    study = make(open_storage(None, tmp_path / "study.journal"), sampler="random")
    reasons = []
    for number in range(40):
        proposal = study.ask()
        reason = SPACE.violation(proposal.config)
        reasons.append(reason)
        if reason is None:
            assert SPACE.contains(proposal.config)
            study.tell(proposal, outcome(proposal.config, 1.0, number=number))
        else:
            study.forbid(proposal, reason)
    refused = [t for t in study.trials if t.state.name == "PRUNED"]
    assert [t.user_attrs["refused"] for t in refused] == [r for r in reasons if r is not None]
    assert 0 < len(refused) < 40


def test_optuna_is_told_of_every_outcome(study):
    good, inaccurate, slow, failed = SPACE.priors[:4]
    for number, told in enumerate(
        (
            outcome(good, 5.0, -0.01),
            outcome(inaccurate, 9.0, 0.2, failure="inaccurate"),
            outcome(slow, 2.0, None, screened=True, failure="slow"),
            outcome(failed, None, None, failure="crash"),
        )
    ):
        study.enqueue(told.config)
        study.tell(study.ask(), replace(told, number=number))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert study._study.best_trial.value == 5.0  # the faster one is infeasible
    assert study.trials[2].value == 2.0  # the estimate
    assert [t.user_attrs.get("failure") for t in study.trials] == [
        None,
        "inaccurate",
        "slow",
        "crash",
    ]


def test_a_study_rebuilt_from_a_journal_says_the_same_as_the_first_one(tmp_path):
    outcomes = [
        outcome(SPACE.priors[0], 5.0, -0.01, number=0),
        outcome(SPACE.priors[1], 9.0, 0.2, number=1, failure="inaccurate"),
        outcome(SPACE.priors[2], 2.0, None, number=2, screened=True, failure="slow"),
        outcome(SPACE.priors[3], None, None, number=3, failure="unsupported", lasting=True),
    ]
    first = make(open_storage(None, tmp_path / "first.journal"))
    for one in outcomes:
        first.enqueue(one.config)
        first.tell(first.ask(), one)
    rebuilt = make(open_storage(None, tmp_path / "rebuilt.journal"))
    rebuilt.add(outcomes)
    assert rebuilt.observations() == first.observations()
    one, other = (
        [(t.state, t.params, t.value, t.constraints) for t in s.trials] for s in (rebuilt, first)
    )
    assert one == other
    assert rebuilt.known() == first.known() == {0, 1, 2, 3}


def test_a_baseline_outside_the_space_is_seen_by_the_tuner_only(study):
    outside = Config.of({**SPACE.priors[0], "batch_size": 7})
    study.add([outcome(outside, 3.0, -0.01)])
    assert [(o.config, o.excess) for o in study.observations()] == [(outside, -0.01)]
    assert [(t.state.name, t.params) for t in study.trials] == [("FAIL", {})]


def test_what_another_process_enqueued_wrongly_is_failed_and_the_next_is_asked(study):
    study._study.enqueue_trial({**SPACE.priors[0], "threads": 77})
    study.enqueue(SPACE.priors[1])
    assert study.ask().config == SPACE.priors[1]
    assert study.trials[0].state.name == "FAIL"
    assert "77" in study.trials[0].user_attrs["refused"]


def test_the_trials_of_other_runs_are_told_apart(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    mine, theirs = (make(open_storage(url, tmp_path), run=run) for run in ("mine", "theirs"))
    good, inaccurate, failed = SPACE.priors[:3]
    theirs.add(
        [
            outcome(good, 3.0, -0.01, number=0),
            outcome(inaccurate, 9.0, 0.2, number=1),
            outcome(failed, None, None, number=2, failure="crash"),
        ]
    )
    mine.add([outcome(good, 2.0, -0.01)])
    told = [(t.config, t.value, t.excess) for t in mine.others()]
    assert told == [(good, 3.0, -0.01), (inaccurate, 9.0, 0.2)]
    assert mine.known() == {0}
    seen = [(o.config, o.own) for o in mine.observations()]
    assert seen == [(inaccurate, False), (good, True)]


@pytest.mark.parametrize("kind", ["timeout", "out-of-memory", "crash", "fallback", "unsupported"])
def test_of_anothers_failures_only_what_is_unsupported_rules_out_a_configuration(tmp_path, kind):
    """Its limits of time and memory may be others."""
    url = f"sqlite:///{tmp_path}/study.db"
    mine, theirs = (make(open_storage(url, tmp_path), run=run) for run in ("mine", "theirs"))
    failed = SPACE.priors[0]
    told = outcome(failed, None, None, failure=kind, lasting=True)
    theirs.add([told])
    assert [o.config for o in mine.observations()] == [failed] * (kind == "unsupported")
    session = failed.only(SESSION_KNOBS)
    chosen = {mine.ask(lambda c: c.only(SESSION_KNOBS) == session).config for _ in range(3)}
    vetoed = {c.only(SESSION_KNOBS) for c in chosen} != {session}
    assert vetoed == (kind == "unsupported")
    mine.add([told])
    assert failed in {o.config for o in mine.observations() if o.own}


def test_trials_a_killed_run_left_are_failed_in_a_shared_storage(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    make(open_storage(url, tmp_path), run="mine").ask()
    make(open_storage(url, tmp_path), run="another's").ask()
    second = make(open_storage(url, tmp_path), run="mine")
    second.fail_stale()
    assert [t.state.name for t in second.trials] == ["FAIL", "RUNNING"]
    assert second.observations() == []


def test_an_outcome_whose_state_was_not_written_is_added_again(tmp_path, monkeypatch):
    """The process was killed between the attributes of a trial and its state."""
    url = f"sqlite:///{tmp_path}/study.db"
    killed = make(open_storage(url, tmp_path), run="mine")
    proposal = killed.ask()
    told = outcome(proposal.config, 2.0, -0.01, number=1)
    monkeypatch.setattr(killed._study, "tell", lambda *args, **more: None)
    killed.tell(proposal, told)
    resumed = make(open_storage(url, tmp_path), run="mine")
    resumed.fail_stale()
    assert resumed.known() == set()
    resumed.add([told])
    assert [t.state.name for t in resumed.trials] == ["FAIL", "COMPLETE"]
    assert [o.config for o in resumed.observations()] == [proposal.config]
    assert resumed.known() == {1}


def test_a_stale_journal_and_its_lock_are_replaced(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("half a li")
    (tmp_path / "study.journal.lock").symlink_to(path)
    study = make(open_storage(None, path))
    study.ask()
    assert len(study.trials) == 1


def test_an_unusable_storage_says_what_to_pass(tmp_path):
    with pytest.raises(InputError, match="cannot be opened") as caught:
        open_storage("nonsense://user:secret@host/db", tmp_path)
    assert "secret" not in str(caught.value)


def narrowed(**changes):
    return replace(SPACE, **changes)


@pytest.mark.parametrize(
    "other",
    [
        compile_space(load_space(SMALL), surroundings(cores=8)),
        narrowed(constraints=()),
        narrowed(cores=3),
        narrowed(dimensions=tuple(replace(d, when={}) for d in SPACE.dimensions)),
        narrowed(modes={"default": {"eager": {"fp32": None}}}),
    ],
    ids=["choices", "constraints", "cores", "conditions", "modes"],
)
def test_two_spaces_on_one_storage_have_studies_of_their_own(tmp_path, other):
    url = f"sqlite:///{tmp_path}/study.db"
    studies = [make(open_storage(url, tmp_path), space=space) for space in (SPACE, other)]
    names = {study._study.study_name for study in studies}
    assert len(names) == 2


def test_searches_that_differ_in_their_priors_only_share_a_study(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    spaces = (SPACE, narrowed(priors=()))
    studies = [make(open_storage(url, tmp_path), space=space) for space in spaces]
    assert studies[0]._study.study_name == studies[1]._study.study_name


def test_searches_with_other_choices_share_one_storage(tmp_path):
    """An allocator that was installed in between changes the choices of a knob."""
    url = f"sqlite:///{tmp_path}/study.db"
    more = compile_space(load_space(SMALL), surroundings(cores=8))
    assert more.dimensions != SPACE.dimensions
    of_both = SPACE.priors[:2]
    assert all(more.contains(config) for config in of_both)
    assert not SPACE.contains(more.priors[0])
    studies = {}
    for run, space, config in (("0", SPACE, of_both[0]), ("1", more, of_both[1])):
        studies[run] = make(open_storage(url, tmp_path), space=space, run=run)
        studies[run].add([outcome(config, 1.0)])
    studies["1"].add([outcome(more.priors[0], 2.0, number=1)])
    told = {run: [t.config for t in study.others()] for run, study in studies.items()}
    assert told == {"0": [of_both[1]], "1": [of_both[0]]}
    again = {run: [t.config for t in study.others()] for run, study in studies.items()}
    assert again == told  # each is copied once, and no copy is copied back
    for run, study in studies.items():
        assert [o.config for o in study.observations() if not o.own] == told[run]
