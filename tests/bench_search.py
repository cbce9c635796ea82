"""A whole search on a made-up machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import numpy as np
from fakes import Recorder, surroundings

from autotune.search.limits import Limits
from autotune.search.loop import Search
from autotune.search.objective import objective_named
from autotune.search.plan import SearchPlan
from autotune.search.samplers import make_sampler
from autotune.search.study import Study, open_storage
from autotune.space import (
    baseline,
    compile_space,
    dynamic_baseline,
    load_space,
    parse_overrides,
)
from autotune.store.journal import Journal
from autotune.tasks.base import Task
from autotune.tasks.gate import Gate, GateRule

SMALL = Path(__file__).parent / "spaces" / "small.yaml"


class Ones:
    agreement = Task.agreement
    same = Task.same
    metrics: ClassVar = ("f1",)

    def decode(self, rows, features, outputs):
        return [round(float(x)) for x in outputs["logits"]]

    def score(self, rows, predictions, reference=None):
        return {"f1": 100 * float(np.mean([p == 0 for p in predictions]))}

    def resampled(self, rows, predictions, weights, reference=None):
        return None

    def scores(self, outputs):
        return None


class Kept:
    """The reference outputs, kept by the bench."""

    def __init__(self, bench, gate):
        self.bench, self.gate = bench, gate

    def save(self, outcome):
        self.bench.stored = outcome.outputs

    def load(self):
        return self.bench.stored and self.gate.reference(self.bench.stored)


class Bench:
    """One run folder, and searches over it."""

    def __init__(self, folder):
        self.folder = folder
        self.stored = None
        self.listener = Recorder()

    def search(
        self,
        runner,
        *,
        trials=12,
        seed=0,
        overrides=(),
        where=None,
        budget=None,
        clock=None,
        gate=None,
        bounds=None,
        more_rows=None,
        check_s=0.0,
        sampler="autotune",
        reference=None,
    ):
        where = where or surroundings()
        space = compile_space(load_space(SMALL), where, overrides=parse_overrides(list(overrides)))
        objective = objective_named(where.objective)
        ticks = itertools.count()
        gate = gate or Gate(
            task=Ones(), rows=[None] * 10, features=None, rule=GateRule(max_drop=0.01)
        )
        self.journal = Journal(self.folder / "trials.jsonl")

        self.study = Study(
            space,
            storage=open_storage(None, self.folder / "study.journal"),
            group="test",
            sampler=make_sampler(
                sampler, space, seed=seed + len(self.journal.trials), run="test", host="here"
            ),
            maximize=objective.maximize,
            run="test",
            host="here",
        )
        search = Search(
            SearchPlan(
                space=space,
                baseline=baseline(where),
                dynamic=dynamic_baseline(where),
                reference=reference or baseline(where),
                limits=Limits(trials=trials, time_budget_s=budget, check_s=check_s),
                max_drop=0.01,
                seed=seed,
                bounds=bounds,
            ),
            study=self.study,
            runner=runner,
            gate=gate,
            journal=self.journal,
            objective=objective,
            references=Kept(self, gate),
            more_rows=more_rows,
            listener=self.listener,
            clock=clock or (lambda: next(ticks) / 1000),  # what is proposed depends on costs
        )
        try:
            return search.run()
        finally:
            self.journal.close()
