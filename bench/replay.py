"""Compares search strategies on recorded tables, by configurations tried and seconds spent.

    python bench/replay.py bench/tables/*.jsonl.gz [--seeds 30] [--strategies autotune,random,tpe]
        [--plot docs/replay.svg] [--json FILE]

The strategies are:

- `autotune`: the search as it ships, priors included; `autotune-no-priors`: without them.
- `tpe`: Optuna's default sampler; `tpe-multivariate`: the same with its multivariate and group
  options; `ga`: Optuna's genetic algorithm.
- `random`: draws without replacement.

All of them skip configurations that the constraints rule out, and none pays for a configuration
twice. Only measured configurations count.

A strategy's answer is the best allowed configuration that it has measured. The gap is the distance
of that answer to the best allowed configuration of the table. Seconds are the recorded ones:
preparation, warm-up and passes.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from curve import draw
from recorded import NoReferences, ReplayGate, ReplayRunner, Table

from autotune.search.limits import Limits
from autotune.search.loop import Search, SearchPlan
from autotune.search.objective import Objective, objective_named
from autotune.search.study import Study, open_storage
from autotune.shared.records import Config, StoppingRule
from autotune.shared.stats import percentile
from autotune.space import Space, Surroundings, baseline, compile_space, load_space
from autotune.store.journal import Journal

SHARES = (0.02, 0.05, 0.10, 0.20)
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Problem:
    """A table, its space, and the objective that ranks its configurations."""

    table: Table
    space: Space
    where: Surroundings
    objective: Objective

    @classmethod
    def read(cls, path: Path, priors: bool) -> Problem:
        table = Table.read(path)
        header = table.header
        where = Surroundings(
            cores=header["cores"],
            attentions=tuple(header["attentions"]),
            modes=header["modes"],
            objective=header["objective"],
        )
        file = load_space(ROOT / "bench" / "tables" / header["space"])
        first: tuple[Config, ...] = ()
        if priors:  # the priors of the shipped space for this objective
            first = compile_space(load_space(ROOT / "search_spaces" / "qa.yaml"), where).priors
        space = compile_space(file, where, first=first)
        return cls(table, space, where, objective_named(header["objective"]))

    def speed(self, config: Config) -> float | None:
        """Logarithm of the objective, larger is better; None if it failed or is not allowed."""
        trial = self.table.trials[config]
        if trial.failure is not None or trial.measurement is None:
            return None
        value = math.log(self.objective.value(trial.measurement))
        return value if self.objective.maximize else -value

    @property
    def best(self) -> float:
        return max(s for c in self.table.trials if (s := self.speed(c)) is not None)

    @property
    def exhaustive_s(self) -> float:
        runner = ReplayRunner(self.table)
        for config in self.table.trials:
            runner.run(config, StoppingRule())
        return runner.clock()


def autotune_search(problem: Problem, runner: ReplayRunner, seed: int, max_configs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="autotune-replay-") as folder:
        journal = Journal(Path(folder) / "trials.jsonl")
        gate: Any = ReplayGate(problem.table)
        Search(
            SearchPlan(
                run_group="replay",
                space=problem.space,
                baseline=baseline(problem.where),
                limits=Limits(trials=max_configs, time_budget_s=None),
                max_drop=0.01,
                seed=seed,
            ),
            study=Study(
                problem.space,
                storage=open_storage(None, Path(folder) / "study.journal"),
                group="replay",
                seed=seed,
                maximize=problem.objective.maximize,
            ),
            runner=runner,
            gate=gate,
            journal=journal,
            objective=problem.objective,
            references=NoReferences(),
            listener=SilentListener(),
            clock=runner.clock,
        ).run()
        journal.close()


class SilentListener:
    def started(self, config: Config, origin: str, number: int) -> None: ...

    def finished(self, progress: Any) -> None: ...


def random_order(problem: Problem, runner: ReplayRunner, seed: int, max_configs: int) -> None:
    configs = [c for c in problem.space.configs() if c in problem.table.trials]
    random.Random(seed).shuffle(configs)
    for config in configs[:max_configs]:
        runner.run(config, StoppingRule())


def sampled(make: Callable[[int], optuna.samplers.BaseSampler]) -> Any:
    """A strategy from an Optuna sampler, which is told the accuracy as a constraint."""

    def run(problem: Problem, runner: ReplayRunner, seed: int, max_configs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=make(seed), direction="maximize")
        rng = random.Random(seed)
        left = dict.fromkeys(c for c in problem.space.configs() if c in problem.table.trials)
        refused = 0
        while len(runner.ran) < max_configs and left:
            if refused >= 15:  # the sampler is stuck on known configurations
                config = rng.choice(list(left))
                study.enqueue_trial(dict(config.values), skip_if_exists=False)
            trial = study.ask()

            def choose(dimension: Any, trial: Any = trial) -> Any:
                return trial.suggest_categorical(dimension.name, dimension.choices)

            config = problem.space.build(choose)
            if config not in left:
                refused += 1
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            refused = 0
            del left[config]
            outcome = runner.run(config, StoppingRule())
            if outcome.measurement is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            accuracy = problem.table.trials[config].accuracy
            assert accuracy is not None
            value = math.log(problem.objective.value(outcome.measurement))
            trial.set_constraint("accuracy", accuracy.relative_drop - 0.01)
            study.tell(trial, value if problem.objective.maximize else -value)

    return run


STRATEGIES: dict[str, tuple[bool, Any]] = {
    "autotune": (True, autotune_search),
    "autotune-no-priors": (False, autotune_search),
    "random": (False, random_order),
    "tpe": (False, sampled(lambda seed: optuna.samplers.TPESampler(seed=seed))),
    "tpe-multivariate": (
        False,
        sampled(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)),
    ),
    "ga": (False, sampled(lambda seed: optuna.samplers.NSGAIISampler(seed=seed))),
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: the gap after each configuration (0 to 1), and the recorded seconds by then."""

    gaps: list[float]
    seconds: list[float]
    own_s: float  # real seconds that the strategy itself took


def one_run(job: tuple[Path, str, int, float]) -> Curve:
    path, strategy, seed, share = job
    priors, run = STRATEGIES[strategy]
    problem = Problem.read(path, priors)
    runner = ReplayRunner(problem.table)
    max_configs = math.ceil(share * len(problem.table.trials))
    start = time.perf_counter()
    run(problem, runner, seed, max_configs)
    own_s = time.perf_counter() - start
    best, so_far = problem.best, -math.inf
    gaps, seconds = [], []
    for config, now in list(zip(runner.ran, runner.times, strict=True))[:max_configs]:
        speed = problem.speed(config)
        so_far = max(so_far, speed if speed is not None else -math.inf)
        gaps.append(1 - math.exp(so_far - best))
        seconds.append(now)
    return Curve(gaps, seconds, own_s)


def geometric(gaps: list[float]) -> float:
    """One minus the geometric mean of (1 - gap) over runs."""
    if max(gaps) >= 1:
        return 1.0
    return 1 - math.exp(statistics.fmean(math.log(1 - gap) for gap in gaps))


def mean_curve(curves: list[Curve]) -> list[float]:
    """The geometric mean of the gaps over runs, after each configuration; a run that has ended
    keeps its last gap."""
    longest = max(len(c.gaps) for c in curves)
    return [geometric([c.gaps[min(n, len(c.gaps) - 1)] for c in curves]) for n in range(longest)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument(
        "--share", type=float, default=max(SHARES), help="share of the table to measure"
    )
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG file for the geometric mean of the gaps")
    options = parser.parse_args()
    found: dict[str, dict[str, list[Curve]]] = {}
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one CPU for each process of the pool
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for path in options.tables:
            problem = Problem.read(path, priors=False)
            exhaustive = problem.exhaustive_s
            count = len(problem.table.trials)
            print(f"\n{path.name}: {count} configurations, {exhaustive / 60:.0f} min exhaustively")
            print(f"{'':20}" + "".join(f"{share:>16.0%}" for share in SHARES) + "  within 3% in")
            for strategy in options.strategies.split(","):
                jobs = [(path, strategy, seed, options.share) for seed in range(options.seeds)]
                curves = pool.map(one_run, jobs, chunksize=1)
                found.setdefault(path.name, {})[strategy] = curves
                print(line(strategy, curves, count, exhaustive), flush=True)
    if options.plot:
        panels = {
            table: {name: mean_curve(curves) for name, curves in by_strategy.items()}
            for table, by_strategy in found.items()
        }
        counts = {path.name: len(Table.read(path).trials) for path in options.tables}
        draw(panels, counts, options.plot)
    if options.json:
        plain = {
            table: {
                strategy: [{"gaps": c.gaps, "seconds": c.seconds, "own_s": c.own_s} for c in curves]
                for strategy, curves in by_strategy.items()
            }
            for table, by_strategy in found.items()
        }
        options.json.write_text(json.dumps(plain))


def line(strategy: str, curves: list[Curve], count: int, exhaustive_s: float) -> str:
    """The table row of a strategy: geometric mean and 95th percentile of the gap at each of SHARES.

    Then the share of the exhaustive seconds after which a run came within 3% (median and 95th
    percentile), and milliseconds a choice.
    """
    cells = []
    for share in SHARES:
        place = math.ceil(share * count) - 1
        gaps = [c.gaps[min(place, len(c.gaps) - 1)] for c in curves]
        cells.append(f"{geometric(gaps):>8.1%} {percentile(gaps, 95):>6.1%} ")
    reached = [
        next((s for g, s in zip(c.gaps, c.seconds, strict=True) if g <= 0.03), math.inf)
        for c in curves
    ]
    within = [r / exhaustive_s for r in reached]
    own = statistics.median(c.own_s / len(c.gaps) for c in curves)
    return (
        f"{strategy:20}" + "".join(cells) + f"{statistics.median(within):>10.1%}"
        f" (95%: {percentile(within, 95):.1%}); {1000 * own:.0f} ms a choice"
    )


if __name__ == "__main__":
    main()
