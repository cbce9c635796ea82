"""Tests the finals' judgement: is a configuration found different from itself, or slower if slowed?

    python bench/comparisons.py record reports/RUN bench/tables/itself.json [--processes 6]
    python bench/comparisons.py draw bench/tables/itself*.json [--comparisons 200] [--rounds 24]

`record` opens the run's best configuration in several processes and visits them in turn, as the
finals do.

`draw` compares the configuration with itself many times and judges each comparison as the finals
do: once unchanged, once with one side slowed by 5%. A comparison has as many rounds as the finals
hold at most. Each side changes to another process, drawn at random, as often as in the finals.
Rounds are drawn in two ways. Successive rounds from a random start keep the drift of the host.
Freely drawn rounds give more distinct comparisons.

Also printed: the judgement if the finals had only two processes and took them to be the same, and
the standard deviation between processes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opened import open_run, speeds

from autotune.search.finals import FINALS_LIMITS, VISIT_RULE, VISITS_PER_PROCESS, processes
from autotune.shared.stats import gain_interval, ratio_interval, shuffled
from autotune.store.folder import RunFolder

SLOWED = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("run", type=Path)
    one.add_argument("output", type=Path)
    one.add_argument("--processes", type=int, default=6)
    one.add_argument("--visits", type=int, default=60, help="to each process")
    other = commands.add_parser("draw")
    other.add_argument("samples", type=Path, nargs="+")
    other.add_argument("--comparisons", type=int, default=200)
    other.add_argument("--rounds", type=int, default=FINALS_LIMITS.max_rounds)
    other.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "record":
        record(RunFolder(options.run), options.output, options.processes, options.visits)
    else:
        for samples in options.samples:
            print(f"{samples}:")
            draw(samples, options)


def record(folder: RunFolder, output: Path, count: int, visits: int) -> None:
    order = random.Random()
    with tempfile.TemporaryDirectory(prefix="autotune-comparisons-") as work:
        sides = [open_run(folder, Path(work) / str(number)) for number in range(count)]
        config = sides[0].chosen
        found: list[list[float]] = [[] for _ in sides]
        for side in sides:
            side.runner.keep_open([config])
        for _ in range(visits):
            for index in shuffled(range(count), order):
                outcome = sides[index].runner.run(config, VISIT_RULE)
                assert outcome.measurement is not None, outcome.failure
                found[index] += speeds([outcome])
            samples = {"config": dict(config), "processes": found}
            # Written after every visit, in case recording is stopped.
            output.write_text(json.dumps(samples, indent=1) + "\n")
        for side in sides:
            side.runner.close()


def draw(samples: Path, options: argparse.Namespace) -> None:
    found: list[list[float]] = json.loads(samples.read_text())["processes"]
    count, rounds = min(map(len, found)), options.rounds
    rng = random.Random(options.seed)

    def successive() -> list[int]:
        start = rng.randrange(count - rounds + 1)
        return list(range(start, start + rounds))

    def freely_drawn() -> list[int]:
        return rng.sample(range(count), rounds)

    for name, drawn in (("successive rounds", successive), ("any rounds", freely_drawn)):
        same_process = different = slower = 0
        for _ in range(options.comparisons):
            indices, count_of_each = drawn(), processes(rounds)
            pairs = [rng.sample(found, 2) for _ in range(count_of_each)]
            one, other = pairs[0]
            within = ratio_interval([one[index] / other[index] for index in indices])
            same_process += within.low > 1 or within.high < 1
            ratios = []
            for number, index in enumerate(indices):
                one, other = pairs[number // VISITS_PER_PROCESS]
                ratios.append(one[index] / other[index])
            itself = gain_interval(ratios, count_of_each)
            different += itself.low > 1 or itself.high < 1
            slower += itself.low * SLOWED > 1  # slowing scales every ratio and the interval
        shares = [n / options.comparisons for n in (different, same_process, slower)]
        print(
            f"{options.comparisons} comparisons of {rounds} {name}, {processes(rounds)} of "
            f"{len(found)} processes a side: different from itself {shares[0]:.1%} (two processes "
            f"taken to be the same, {shares[1]:.1%}); slowed by {SLOWED - 1:.0%} and found slower "
            f"{shares[2]:.1%}"
        )
    print(f"standard deviation of the logarithm between processes: {between(found):.4f}")


def between(found: Sequence[Sequence[float]]) -> float:
    """Standard deviation between processes of the logarithm of speed, relative to the mean of each
    round. The variation between rounds is subtracted."""
    rounds = [[math.log(speed) for speed in one] for one in zip(*found, strict=False)]
    beside = [[one[i] - statistics.fmean(one) for one in rounds] for i in range(len(found))]
    centres = [statistics.median(side) for side in beside]
    within = statistics.fmean(statistics.variance(side) / len(side) for side in beside)
    return math.sqrt(max(0.0, statistics.variance(centres) - within * math.pi / 2))


if __name__ == "__main__":
    main()
