"""How often is a configuration found different from itself, and one slowed by 5% slower?

    python bench/comparisons.py record reports/RUN bench/tables/itself.json [--visits 120]
    python bench/comparisons.py draw bench/tables/itself.json [--comparisons 200] [--rounds 12]

`record` opens the run's best configuration twice, in two processes, and visits them in turn as
the finals do. `draw` takes comparisons of some successive rounds from these real samples, at
places drawn by chance, and judges them as the finals do: once as they are, once with every
sample of one side 5% longer.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from opened import open_run, speeds

from autotune.folder import RunFolder
from autotune.records import Measure
from autotune.stats import ratio_interval

VISIT = Measure(min_passes=1, max_passes=40, half_width=0.0, budget_s=1.5)
SLOWED = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("run", type=Path)
    one.add_argument("output", type=Path)
    one.add_argument("--visits", type=int, default=120)
    other = commands.add_parser("draw")
    other.add_argument("samples", type=Path)
    other.add_argument("--comparisons", type=int, default=200)
    other.add_argument("--rounds", type=int, default=12)
    other.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "record":
        record(RunFolder(options.run), options.output, options.visits)
    else:
        draw(options.samples, options.comparisons, options.rounds, options.seed)


def record(folder: RunFolder, output: Path, visits: int) -> None:
    with tempfile.TemporaryDirectory(prefix="autotune-comparisons-") as work:
        sides = [open_run(folder, Path(work) / side) for side in ("a", "b")]
        config = sides[0].chosen
        found: list[list[float]] = [[], []]
        for side in sides:
            side.runner.keep([config])
        for visit in range(visits):
            for index in (0, 1) if visit % 2 == 0 else (1, 0):
                outcome = sides[index].runner.run(config, VISIT)
                assert outcome.measurement is not None, outcome.failure
                found[index] += speeds([outcome])
            samples = {"config": config.as_dict(), "a": found[0], "b": found[1]}
            output.write_text(json.dumps(samples, indent=1) + "\n")  # what there is so far
        for side in sides:
            side.runner.close()


def draw(samples: Path, comparisons: int, rounds: int, seed: int) -> None:
    found = json.loads(samples.read_text())
    ratios = [a / b for a, b in zip(found["a"], found["b"], strict=True)]
    rng = random.Random(seed)
    different = slower = 0
    for _ in range(comparisons):
        start = rng.randrange(len(ratios) - rounds + 1)
        some = ratios[start : start + rounds]
        itself = ratio_interval(some)
        different += itself.low > 1 or itself.high < 1
        slower += ratio_interval([ratio * SLOWED for ratio in some]).low > 1
    print(f"{comparisons} comparisons of {rounds} rounds each, from {len(ratios)} real ones:")
    print(f"a configuration is found different from itself in {different / comparisons:.1%}")
    print(f"one slowed by {SLOWED - 1:.0%} is found slower in {slower / comparisons:.1%}")


if __name__ == "__main__":
    main()
