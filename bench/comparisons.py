"""How often do the finals call a configuration different from itself, or miss a 5% slowdown?

    python bench/comparisons.py record reports/RUN bench/tables/itself.json [--processes 6]
    python bench/comparisons.py draw bench/tables/itself*.json [--comparisons 200] [--rounds 24]

`record` opens the run's best configuration in several processes and visits them in turn, as the
finals do. `draw` compares the configuration with itself, over the largest number of rounds that the
finals run. Each side changes to another random process as often as in the finals. `draw` judges
each comparison as the finals do, once as recorded and once with one side slowed by 5%.

Rounds are drawn in two ways. Successive rounds from a random start keep the drift of the host. Any
rounds give more distinct comparisons. The output also says how often two single processes, taken to
be the same, would be called different, and how much processes differ in speed.
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

from autotune.search.finals import MAX_ROUNDS, VISIT_RULE, VISITS_A_PROCESS, processes
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
    one.add_argument("--visits", type=int, default=60, help="visits to each process")
    other = commands.add_parser("draw")
    other.add_argument("samples", type=Path, nargs="+")
    other.add_argument("--comparisons", type=int, default=200)
    other.add_argument("--rounds", type=int, default=MAX_ROUNDS)
    other.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "record":
        record(RunFolder(options.run), options.output, options.processes, options.visits)
    else:
        for samples in options.samples:
            print(f"{samples}:")
            draw(samples, options)


def record(folder: RunFolder, output: Path, count: int, visits: int) -> None:
    with tempfile.TemporaryDirectory(prefix="autotune-comparisons-") as work:
        sides = [open_run(folder, Path(work) / str(number)) for number in range(count)]
        config = sides[0].chosen
        found: list[list[float]] = [[] for _ in sides]
        for side in sides:
            side.runner.keep_open([config])
        for _ in range(visits):
            for index in shuffled(range(count)):
                outcome = sides[index].runner.run(config, VISIT_RULE)
                assert outcome.measurement is not None, outcome.failure
                found[index] += speeds([outcome])
            samples = {"config": config.as_dict(), "processes": found}
            output.write_text(json.dumps(samples, indent=1) + "\n")  # keep the samples so far
        for side in sides:
            side.runner.close()


def draw(samples: Path, options: argparse.Namespace) -> None:
    found: list[list[float]] = json.loads(samples.read_text())["processes"]
    count, rounds = min(map(len, found)), options.rounds
    rng = random.Random(options.seed)

    def successive() -> list[int]:
        start = rng.randrange(count - rounds + 1)
        return list(range(start, start + rounds))

    def any_of_them() -> list[int]:
        return rng.sample(range(count), rounds)

    for name, drawn in (("successive rounds", successive), ("any rounds", any_of_them)):
        same_process = different = slower = 0
        for _ in range(options.comparisons):
            indices, count_of_each = drawn(), processes(rounds)
            pairs = [rng.sample(found, 2) for _ in range(count_of_each)]
            one, other = pairs[0]
            within = ratio_interval([one[index] / other[index] for index in indices])
            same_process += within.low > 1 or within.high < 1
            ratios = []
            for number, index in enumerate(indices):
                one, other = pairs[number // VISITS_A_PROCESS]
                ratios.append(one[index] / other[index])
            itself = gain_interval(ratios, count_of_each)
            different += itself.low > 1 or itself.high < 1
            slower += itself.low * SLOWED > 1  # scales every ratio, so the interval too
        shares = [n / options.comparisons for n in (different, same_process, slower)]
        print(
            f"{options.comparisons} comparisons of {rounds} {name}, {processes(rounds)} of "
            f"{len(found)} processes a side: called different from itself {shares[0]:.1%} "
            f"({shares[1]:.1%} if processes were taken to be the same); a slowdown of "
            f"{SLOWED - 1:.0%} found {shares[2]:.1%}"
        )
    print(f"standard deviation of log speed between processes: {process_log_deviation(found):.4f}")


def process_log_deviation(found: Sequence[Sequence[float]]) -> float:
    """Standard deviation, between processes, of log speed relative to the mean of each round.

    The part of it that the noise between rounds explains is subtracted.
    """
    rounds = [[math.log(speed) for speed in one] for one in zip(*found, strict=False)]
    beside = [[one[i] - statistics.fmean(one) for one in rounds] for i in range(len(found))]
    centres = [statistics.median(side) for side in beside]
    within = statistics.fmean(statistics.variance(side) / len(side) for side in beside)
    return math.sqrt(max(0.0, statistics.variance(centres) - within * math.pi / 2))


if __name__ == "__main__":
    main()
