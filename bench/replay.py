"""Compares search strategies on recorded tables, by configurations tried and seconds spent.

    python bench/replay.py bench/tables/*.jsonl.gz [--seeds 30] [--strategies autotune,random,tpe]
        [--plot docs/replay.svg] [--json FILE]

Each strategy is a search of `autotune search`, with another sampler in its Optuna study. The study
is kept in memory, because nobody resumes it.

- `autotune`: the search as it ships, priors included; `autotune-no-priors`: without them.
- `tpe`, `tpe-multivariate`, `gp`, `nsga2`, `random`: the samplers of `--sampler`, without priors.
- `auto`: the plugin AutoSampler, if optunahub is installed.

All of them measure the two baselines first. All skip configurations that the constraints rule out,
and none pays for a configuration twice. Only measured configurations count.

A strategy's answer is the best allowed configuration that it has measured. The gap is the distance
of that answer to the best allowed configuration of the table. Seconds are the recorded ones:
preparation, warm-up and passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from curve import draw
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from recorded import NoReferences, ReplayGate, ReplayRunner, Table

from autotune.search.limits import Limits
from autotune.search.loop import Search
from autotune.search.objective import Objective, objective_named
from autotune.search.plan import SearchPlan
from autotune.search.samplers import SAMPLERS, make_sampler
from autotune.search.study import Study
from autotune.shared.records import Config
from autotune.shared.stats import percentile
from autotune.shared.stopping import StoppingRule
from autotune.space import (
    Space,
    Surroundings,
    baseline,
    compile_space,
    dynamic_baseline,
    load_space,
)
from autotune.store.journal import Journal

SHARES = (0.02, 0.05, 0.10, 0.20)
RUN = "replay"
AUTO = "auto"
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


def search(
    problem: Problem, runner: ReplayRunner, sampler: BaseSampler, seed: int, max_configs: int
) -> None:
    """The search of `autotune search` on the table, with the study that it has."""
    with tempfile.TemporaryDirectory(prefix="autotune-replay-") as folder:
        journal = Journal(Path(folder) / "trials.jsonl")
        gate: Any = ReplayGate(problem.table)
        Search(
            SearchPlan(
                space=problem.space,
                baseline=baseline(problem.where),
                dynamic=dynamic_baseline(problem.where),
                reference=baseline(problem.where),
                limits=Limits(trials=max_configs, time_budget_s=None),
                max_drop=0.01,
                seed=seed,
            ),
            study=Study(
                problem.space,
                storage=InMemoryStorage(),
                group="replay",
                sampler=sampler,
                maximize=problem.objective.maximize,
                run=RUN,
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

    def expects(self, outlook: Any) -> None: ...

    def finished(self, progress: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Strategy:
    """A sampler by its name, and whether the search begins with the priors of the space."""

    sampler: str
    priors: bool = False

    def make(self, space: Space, seed: int) -> BaseSampler:
        if self.sampler == AUTO:
            import optunahub

            module = optunahub.load_module("samplers/auto_sampler")
            made: BaseSampler = module.AutoSampler(seed=seed)
            return made
        return make_sampler(self.sampler, space, seed=seed, run=RUN)


STRATEGIES = {
    "autotune": Strategy("autotune", priors=True),
    "autotune-no-priors": Strategy("autotune"),
    **{name: Strategy(name) for name in SAMPLERS if name != "autotune"},
    AUTO: Strategy(AUTO),
}


def missing(strategy: str) -> str | None:
    """Why the strategy cannot be replayed here; None if it can."""
    if strategy == AUTO and importlib.util.find_spec("optunahub") is None:
        return "optunahub, which has the plugin AutoSampler, is not installed"
    if strategy == "gp" and importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    return None


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: the gap after each configuration (0 to 1), and the recorded seconds by then."""

    gaps: list[float]
    seconds: list[float]
    own_s: float  # real seconds that the strategy itself took


def one_run(job: tuple[Path, str, int, float]) -> Curve:
    path, strategy, seed, share = job
    how = STRATEGIES[strategy]
    problem = Problem.read(path, how.priors)
    runner = ReplayRunner(problem.table)
    max_configs = math.ceil(share * len(problem.table.trials))
    start = time.perf_counter()
    warnings.simplefilter("ignore")  # Optuna's own, about what is experimental
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search(problem, runner, how.make(problem.space, seed), seed, max_configs)
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
                reason = missing(strategy)
                if reason is not None:
                    print(f"{strategy:20}skipped: {reason}")
                    continue
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
