"""How often is a configuration found different from itself, and one slowed by 5% slower?

    python bench/comparisons.py record reports/RUN bench/tables/itself.json [--visits 300]
    python bench/comparisons.py draw bench/tables/itself.json [--comparisons 200] [--rounds 24]

`record` opens the run's best configuration twice, in two processes, and visits them in turn as
the finals do. `draw` takes comparisons of as many rounds as the finals hold at most from these
real samples and judges them as the finals do: once as they are, once with every sample of one
side 5% longer. The rounds are successive ones, from a place drawn by chance, and then any of
them: the former keep how the host drifts, the latter are more different comparisons.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from opened import open_run, speeds

from autotune.folder import RunFolder
from autotune.search.finals import MAX_ROUNDS, VISIT_RULE
from autotune.stats import in_turn, ratio_interval

SLOWED = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("run", type=Path)
    one.add_argument("output", type=Path)
    one.add_argument("--visits", type=int, default=300)
    other = commands.add_parser("draw")
    other.add_argument("samples", type=Path)
    other.add_argument("--comparisons", type=int, default=200)
    other.add_argument("--rounds", type=int, default=MAX_ROUNDS)
    other.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "record":
        record(RunFolder(options.run), options.output, options.visits)
    else:
        draw(options)


def record(folder: RunFolder, output: Path, visits: int) -> None:
    with tempfile.TemporaryDirectory(prefix="autotune-comparisons-") as work:
        sides = [open_run(folder, Path(work) / side) for side in ("a", "b")]
        config = sides[0].chosen
        found: list[list[float]] = [[], []]
        for side in sides:
            side.runner.keep([config])
        for _ in range(visits):
            for index in in_turn((0, 1)):
                outcome = sides[index].runner.run(config, VISIT_RULE)
                assert outcome.measurement is not None, outcome.failure
                found[index] += speeds([outcome])
            samples = {"config": config.as_dict(), "a": found[0], "b": found[1]}
            output.write_text(json.dumps(samples, indent=1) + "\n")  # what there is so far
        for side in sides:
            side.runner.close()


def draw(options: argparse.Namespace) -> None:
    found = json.loads(options.samples.read_text())
    ratios = [a / b for a, b in zip(found["a"], found["b"], strict=True)]
    rng = random.Random(options.seed)

    def successive() -> list[float]:
        start = rng.randrange(len(ratios) - options.rounds + 1)
        return ratios[start : start + options.rounds]

    def any_of_them() -> list[float]:
        return rng.sample(ratios, options.rounds)

    for name, drawn in (("successive rounds", successive), ("any rounds", any_of_them)):
        different = slower = 0
        for _ in range(options.comparisons):
            some = drawn()
            if rng.random() < 0.5:  # either of the two may be the one that is slowed
                some = [1 / ratio for ratio in some]
            itself = ratio_interval(some)
            different += itself.low > 1 or itself.high < 1
            slower += ratio_interval([ratio * SLOWED for ratio in some]).low > 1
        print(
            f"{options.comparisons} comparisons of {options.rounds} {name} from {len(ratios)} real "
            f"ones: different from itself {different / options.comparisons:.1%}, slowed by "
            f"{SLOWED - 1:.0%} and found slower {slower / options.comparisons:.1%}"
        )


if __name__ == "__main__":
    main()
