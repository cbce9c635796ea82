"""Compares one instance on all cores with one instance for each core, in turn.

    python bench/instances.py reports/RUN [--rounds 8] [--set mode=openvino --set precision=bf16]

Takes the run's best configuration, with the given knobs changed. One side runs a single instance on
every core. The other side runs one pinned instance for each core. Prints the ratio of their summed
throughputs (the median over rounds and its interval) and how far apart the instances started.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from opened import VISIT, open_run, speeds

from autotune.commands.promise.reopen import measurements, visit_in_turn
from autotune.shared.stats import median_interval
from autotune.space import complete, parse_overrides
from autotune.space.knobs import describe
from autotune.store.folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", dest="changed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-instances-") as work:
        run = open_run(RunFolder(options.run), Path(work))
        changed = {name: values[0] for name, values in parse_overrides(options.changed).items()}
        shared = {**run.chosen, **changed}
        cores = run.where.cores
        one = complete(run.where, {**shared, "threads": cores, "instances": 1})
        many = complete(
            run.where, {**shared, "threads": 1, "instances": cores, "pinning": "compact"}
        )
        visits = visit_in_turn(run.runner, [one, many], options.rounds, VISIT)
    pairs = zip(speeds(visits[many]), speeds(visits[one]), strict=True)
    ratio = median_interval([m / o for m, o in pairs])
    spread = [float(m.effective["release_spread_s"]) for m in measurements(visits[many])]
    for config in (one, many):
        print(f"{median_interval(speeds(visits[config])).median:.1f}/s {describe(config)}")
    print(
        f"{cores} instances of one thread against one of {cores}: {ratio.median:.2f} "
        f"({ratio.low:.2f} to {ratio.high:.2f}); released within "
        f"{1000 * max(spread):.1f} ms of each other, {len(spread)} times"
    )


if __name__ == "__main__":
    main()
