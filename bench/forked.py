"""Does a forked process, or a session that measured other points, measure the same as a fresh one?

    python bench/forked.py reports/RUN [--comparisons 20] [--visits 8]

Each comparison measures one configuration on two sides, in turn. One side is a fresh process that
measures nothing else. The other side is either forked from a fork server ("forked") or a fresh
process that has measured other points before ("shared"). The sides agree if the interval of the
ratio, paired by visit, holds 1 or comes within 1% of 1. Engines that this host cannot run are left
out.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

from opened import open_run

from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.driver.runner import ProcessRunner
from autotune.host import detect
from autotune.search.finals import VISIT_RULE
from autotune.search.objective import throughput
from autotune.shared.records import Config, Measurement
from autotune.shared.stats import ratio_interval, shuffled
from autotune.shared.stopping import ONE_PASS, StoppingRule
from autotune.space import compile_space, complete, load_space
from autotune.space.knobs import describe
from autotune.store.folder import RunFolder

SPACE = Path(__file__).parents[1] / "search_spaces" / "qa.yaml"
ENGINES: tuple[dict[str, Any], ...] = (
    {"mode": "openvino", "precision": "int8_static", "int8_rest": "bf16"},
    {"mode": "jit", "precision": "int8_dynamic"},
    {"mode": "ipex_jit", "precision": "bf16"},
    {"mode": "eager", "precision": "fp32", "linear": "onednn"},
    {"mode": "onnxruntime", "precision": "fp32"},
)
POINTS: tuple[dict[str, Any], ...] = (
    {"padding": "length_sorted", "batch_size": 8},
    {"padding": "longest", "batch_size": 2},
)
OTHER_POINTS: tuple[dict[str, Any], ...] = (
    {"padding": "length_sorted", "batch_size": 32},
    {"padding": "buckets", "bucket_step": 64, "batch_size": 4},
    {"padding": "length_sorted", "batch_size": 1},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--visits", type=int, default=8)
    options = parser.parse_args()
    agreed = 0
    with tempfile.TemporaryDirectory(prefix="autotune-forked-") as work:
        folder = Path(work)
        fresh = open_run(RunFolder(options.run), folder / "fresh")
        other = open_run(RunFolder(options.run), folder / "other")
        with ForkServers(folder / "parents", memory_bytes=detect().memory_bytes) as fork_servers:
            fork_servers.preload(modeling_modules(fresh.model_type))
            forked = open_run(RunFolder(options.run), folder / "forked", fork_servers)
            space = compile_space(load_space(SPACE), fresh.where)
            cases = [
                (kind, config)
                for point in POINTS
                for engine in ENGINES
                if (config := space.fit({**engine, **point})) is not None
                for kind in ("forked", "shared")
            ]
            for number in range(options.comparisons):
                kind, config = cases[number % len(cases)]
                against = forked.runner if kind == "forked" else other.runner
                against.keep_open([config])
                if kind == "shared":
                    for point in OTHER_POINTS:
                        against.run(complete(fresh.where, {**config, **point}), ONE_PASS)
                agreed += compare(kind, config, fresh.runner, against, options.visits)
                fresh.runner.close()
                against.close()
    print(f"{agreed} of {options.comparisons} comparisons agree")


def compare(
    kind: str, config: Config, fresh: ProcessRunner, other: ProcessRunner, visits: int
) -> bool:
    fresh.keep_open([config])
    one, two = (measure(runner, config, ONE_PASS) for runner in (fresh, other))
    assert one.outputs_digest == two.outputs_digest, "the two sides gave different answers"
    pairs = []
    for _ in range(visits):  # a visit runs only a part of a long pass
        found = {
            runner: measure(runner, config, VISIT_RULE)
            for runner in shuffled((fresh, other), random.Random())
        }
        pairs.append(throughput(found[other]).median / throughput(found[fresh]).median)
    ratio = ratio_interval(pairs)
    agree = ratio.low <= 1.01 and ratio.high >= 0.99
    print(
        f"{'agree' if agree else 'DIFFER':7} {kind:7} {ratio.median:.3f} "
        f"({ratio.low:.3f} to {ratio.high:.3f}) {describe(config)}",
        flush=True,
    )
    return agree


def measure(runner: ProcessRunner, config: Config, rule: StoppingRule) -> Measurement:
    outcome = runner.run(config, rule)
    assert outcome.measurement is not None, outcome.failure
    return outcome.measurement


if __name__ == "__main__":
    main()
