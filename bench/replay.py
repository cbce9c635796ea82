"""Compare search strategies on recorded tables: how close to the best, and how soon?

    python bench/replay.py bench/tables/*.jsonl.gz [--seeds 30] [--strategies autotune,random,tpe]
        [--plot docs/replay.svg] [--json FILE]

Strategies:

- `autotune`: the search with its priors, and `autotune-no-priors`: the search without them;
- `random`: draws without replacement;
- `tpe`: Optuna's default sampler;
- `tpe-multivariate`: the same sampler with its multivariate and grouped options;
- `ga`: Optuna's genetic algorithm.

Every strategy skips configurations that the constraints forbid, and measures none twice. Its answer
is the best allowed configuration that it has measured. The gap compares this answer with the best
allowed configuration of the table. Seconds are the recorded ones: preparation, warm-up and passes.
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
from recorded import ReplayGate, ReplayRunner, Table

from autotune.search.loop import Limits, Search
from autotune.search.objective import Objective, objective_named
from autotune.search.study import Study, open_storage
from autotune.shared.records import Config, StoppingRule
from autotune.shared.stats import percentile
from autotune.space import Space, Surroundings, baseline, compile_space, load_space
from autotune.store.journal import Journal

SHARES = (0.02, 0.05, 0.10, 0.20)
"""Shares of a table's configurations after which gaps are printed."""
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Problem:
    """A table, its space, and how good each of its configurations is."""

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
        """Log of the objective, higher is better; None if `config` failed or is not allowed."""
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


def ours(problem: Problem, runner: ReplayRunner, seed: int, most: int) -> None:
    with tempfile.TemporaryDirectory(prefix="autotune-replay-") as folder:
        journal = Journal(Path(folder) / "trials.jsonl")
        gate: Any = ReplayGate(problem.table)
        Search(
            run_name="replay",
            space=problem.space,
            baseline=baseline(problem.where),
            study=Study(
                problem.space,
                storage=open_storage(None, Path(folder) / "study.journal"),
                name="replay",
                seed=seed,
                maximize=problem.objective.maximize,
            ),
            runner=runner,
            gate=gate,
            journal=journal,
            objective=problem.objective,
            max_drop=0.01,
            limits=Limits(trials=most, time_budget_s=None),
            save_reference=lambda outcome: None,
            stored_reference=lambda: None,
            listener=Silent(),
            seed=seed,
            clock=runner.clock,
        ).run()
        journal.close()


class Silent:
    def started(self, config: Config, origin: str, number: int) -> None: ...

    def finished(self, progress: Any) -> None: ...


def random_order(problem: Problem, runner: ReplayRunner, seed: int, most: int) -> None:
    configs = [c for c in problem.space.configs() if c in problem.table.trials]
    random.Random(seed).shuffle(configs)
    for config in configs[:most]:
        runner.run(config, StoppingRule())


def sampled(make: Callable[[int], optuna.samplers.BaseSampler]) -> Any:
    """A strategy that uses an Optuna sampler, with accuracy as a constraint."""

    def run(problem: Problem, runner: ReplayRunner, seed: int, most: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=make(seed), direction="maximize")
        rng = random.Random(seed)
        left = dict.fromkeys(c for c in problem.space.configs() if c in problem.table.trials)
        refused = 0
        while len(runner.ran) < most and left:
            if refused >= 15:  # the sampler repeats configurations already measured
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
    "autotune": (True, ours),
    "autotune-no-priors": (False, ours),
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
    """One run of a strategy: the gap after each configuration, and the clock then."""

    gaps: list[float]
    seconds: list[float]
    own_s: float  # real seconds that the strategy itself took


def one_run(job: tuple[Path, str, int, float]) -> Curve:
    path, strategy, seed, share = job
    priors, run = STRATEGIES[strategy]
    problem = Problem.read(path, priors)
    runner = ReplayRunner(problem.table)
    most = math.ceil(share * len(problem.table.trials))
    start = time.perf_counter()
    run(problem, runner, seed, most)
    own_s = time.perf_counter() - start
    best, so_far = problem.best, -math.inf
    gaps, seconds = [], []
    for config, now in list(zip(runner.ran, runner.times, strict=True))[:most]:
        speed = problem.speed(config)
        so_far = max(so_far, speed if speed is not None else -math.inf)
        gaps.append(1 - math.exp(so_far - best))
        seconds.append(now)
    return Curve(gaps, seconds, own_s)


def geometric(gaps: list[float]) -> float:
    """The gap of the geometric mean, over runs, of the speed relative to the best."""
    if max(gaps) >= 1:
        return 1.0
    return 1 - math.exp(statistics.fmean(math.log(1 - gap) for gap in gaps))


def mean_curve(curves: list[Curve]) -> list[float]:
    """The `geometric` gap over runs after each configuration. A run that ended early keeps its
    last gap."""
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
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes of the pool: each uses one CPU
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for path in options.tables:
            problem = Problem.read(path, priors=False)
            exhaustive = problem.exhaustive_s
            count = len(problem.table.trials)
            print(
                f"\n{path.name}: {count} configurations, {exhaustive / 60:.0f} min to measure all"
            )
            print(f"{'':20}" + "".join(f"{share:>16.0%}" for share in SHARES) + "   time to 3%")
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
    """One line of the printed table.

    For each of SHARES: the geometric mean and 95th percentile of the gap. Then the time until a run
    is within 3% of the best, as a share of the seconds that measuring everything takes: the median
    and 95th percentile over runs. Then the milliseconds that the strategy takes for each choice.
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
