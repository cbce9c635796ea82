from __future__ import annotations

from pathlib import Path

import pytest
from fakes import surroundings, trial

from autotune.search.study import Study, open_storage
from autotune.shared.errors import InputError
from autotune.shared.records import Failure
from autotune.space import compile_space, load_space

SMALL = Path(__file__).parents[1] / "spaces" / "small.yaml"
SPACE = compile_space(load_space(SMALL), surroundings())


@pytest.fixture
def study(tmp_path):
    storage = open_storage(None, tmp_path / "study.journal")
    return Study(SPACE, storage=storage, group="s", seed=0, maximize=True)


def test_an_enqueued_configuration_is_asked_next(study):
    for prior in SPACE.priors[:3]:
        study.enqueue(prior)
        proposal = study.ask("run")
        assert proposal.config == prior
        study.tell(proposal, trial(config=prior), 1.0, 0.0)


def test_every_proposal_is_a_combination_of_the_space(study):
    for _ in range(40):
        proposal = study.ask("run")
        reason = SPACE.violation(proposal.config)
        if reason is None:
            assert SPACE.contains(proposal.config)
            study.tell(proposal, trial(config=proposal.config), 1.0, 0.0)
        else:
            study.forbid(proposal, reason)


def test_optuna_is_told_of_every_outcome(study):
    states = []
    good, inaccurate, failed = SPACE.priors[:3]
    for config, value, excess in ((good, 5.0, -0.01), (inaccurate, 9.0, 0.2), (failed, None, 0.0)):
        study.enqueue(config)
        failure = None if value else Failure(kind="crash", detail="")
        study.tell(study.ask("run"), trial(config=config, failure=failure), value, excess)
    states = [t.state.name for t in study._study.trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]
    assert study._study.best_trial.value == 5.0  # the faster one is infeasible
    assert study._study.trials[2].user_attrs["failure"] == "crash"


def test_outcomes_of_a_resumed_run_are_known(study):
    config = SPACE.priors[0]
    study.add("run", trial(config=config), 3.0, 0.0)
    study.add("run", trial(config=SPACE.priors[1]), None, 0.0)
    assert study.known() == {config.id, SPACE.priors[1].id}


def test_the_trials_of_other_runs_are_told_apart(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    mine, theirs = (
        Study(SPACE, storage=open_storage(url, tmp_path), group="s", seed=0, maximize=True)
        for _ in range(2)
    )
    good, inaccurate, failed = SPACE.priors[:3]
    theirs.add("theirs", trial(config=good), 3.0, -0.01)
    theirs.add("theirs", trial(config=inaccurate), 9.0, 0.2)
    theirs.add("theirs", trial(config=failed), None, 0.0)
    mine.add("mine", trial(config=good), 2.0, -0.01)
    told = [(t.config, t.value, t.excess) for t in mine.others("mine")]
    assert told == [(good, 3.0, -0.01), (inaccurate, 9.0, 0.2)]


def test_trials_a_killed_run_left_are_failed_in_a_shared_storage(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    first = Study(SPACE, storage=open_storage(url, tmp_path), group="s", seed=0, maximize=True)
    first.ask("mine")
    first.ask("another's")
    second = Study(SPACE, storage=open_storage(url, tmp_path), group="s", seed=0, maximize=True)
    second.fail_stale("mine")
    assert [t.state.name for t in second._study.trials] == ["FAIL", "RUNNING"]


def test_a_stale_journal_and_its_lock_are_replaced(tmp_path):
    path = tmp_path / "study.journal"
    path.write_text("half a li")
    (tmp_path / "study.journal.lock").symlink_to(path)
    study = Study(SPACE, storage=open_storage(None, path), group="s", seed=0, maximize=True)
    study.ask("run")
    assert len(study._study.trials) == 1


def test_an_unusable_storage_says_what_to_pass(tmp_path):
    with pytest.raises(InputError, match="cannot be opened") as caught:
        open_storage("nonsense://user:secret@host/db", tmp_path)
    assert "secret" not in str(caught.value)


def test_searches_with_other_choices_share_one_storage(tmp_path):
    """An allocator that was installed in between changes the choices of a knob."""
    url = f"sqlite:///{tmp_path}/study.db"
    more = compile_space(load_space(SMALL), surroundings(cores=8))
    assert more.dimensions != SPACE.dimensions
    studies = {}
    for space in (SPACE, more):
        study = Study(space, storage=open_storage(url, tmp_path), group="s", seed=0, maximize=True)
        study.enqueue(space.priors[0])
        study.tell(study.ask(str(len(studies))), trial(config=space.priors[0]), 1.0, 0.0)
        studies[str(len(studies))] = study
    told = {run: [t.config for t in study.others(run)] for run, study in studies.items()}
    assert told == {"0": [more.priors[0]], "1": [SPACE.priors[0]]}
