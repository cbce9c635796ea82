"""Compares the configuration that a search chose with the best of each engine alone.

    python bench/against.py reports/RUN [--rounds 5]

Each engine of ENGINES is measured at every point of POINTS. Its fastest point that the gate allows
is then visited in turn with the run's best configuration, in processes kept side by side. Engines
far slower than the fastest are left out. Prints for each engine how many times as fast the search's
choice was: the median over rounds and its interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from opened import VISIT, OpenedRun, open_run, speeds

from autotune.commands.promise.reopen import visit_in_turn
from autotune.search.objective import throughput
from autotune.shared.records import Config
from autotune.shared.stats import median_interval
from autotune.shared.stopping import StoppingRule
from autotune.space import complete
from autotune.space.knobs import describe
from autotune.store.folder import RunFolder

ENGINES: tuple[dict[str, Any], ...] = (
    {"mode": "openvino", "precision": "int8_static", "int8_rest": "bf16"},
    {"mode": "openvino", "precision": "bf16"},
    {"mode": "onnxruntime", "precision": "int8_dynamic"},
    {"mode": "inductor", "precision": "bf16", "bf16_method": "full"},
    {"mode": "ipex_jit", "precision": "int8_static", "int8_rest": "bf16"},
    {"mode": "ipex_jit", "precision": "bf16"},
    {"mode": "jit", "precision": "int8_dynamic"},
)
POINTS: tuple[dict[str, Any], ...] = (
    *({"padding": "length_sorted", "batch_size": size} for size in (1, 2, 4, 8, 16)),
    *({"padding": "token_budget", "batch_tokens": tokens} for tokens in (512, 1024, 2048)),
)
MIN_SPEED_SHARE = 0.6
"""Engines below this share of the fastest one's speed are not visited again."""
QUICK_RULE = StoppingRule(min_passes=1, half_width=0.0, budget_s=2.0, patience_s=10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-against-") as work:
        against(open_run(RunFolder(options.run), Path(work)), options.rounds)


def against(run: OpenedRun, rounds: int) -> None:
    own = [one for stack in run.stacks for one in best_points(run, stack)]
    run.runner.close()
    fastest = max(speed for speed, _ in own)
    others = [
        config
        for speed, config in own
        if config != run.chosen and speed >= MIN_SPEED_SHARE * fastest
    ]
    visits = visit_in_turn(run.runner, [run.chosen, *others], rounds, VISIT)
    chosen = speeds(visits[run.chosen])
    print(f"\nchosen: {describe(run.chosen)}, {median_interval(chosen).median:.1f}/s")
    for one in others:
        pairs = zip(chosen, speeds(visits[one]), strict=True)
        gain = median_interval([mine / other for mine, other in pairs])
        print(
            json.dumps(
                {
                    "against": describe(one),
                    "per_s": round(median_interval(speeds(visits[one])).median, 1),
                    "ratio": round(gain.median, 3),
                    "low": round(gain.low, 3),
                    "high": round(gain.high, 3),
                }
            )
        )


def best_points(run: OpenedRun, stack: str) -> list[tuple[float, Config]]:
    """Each engine of `stack` at its fastest allowed point: examples/s and configuration."""
    found = []
    for engine in ENGINES:
        if run.stacks[stack].modes[engine["mode"]].get(engine["precision"]) is not None:
            continue
        tried: list[tuple[bool, float, Config]] = []
        for point in POINTS:
            config = complete(run.where, {"stack": stack, **engine, **point})
            outcome = run.runner.run(config, QUICK_RULE)
            if outcome.measurement is None:
                print(f"{describe(config)}: {outcome.failure}", flush=True)
                break
            allowed = run.gate.judge(outcome.outputs, run.reference).allowed
            tried.append((allowed, throughput(outcome.measurement).median, config))
        if tried:
            allowed, speed, own = max(tried, key=lambda one: one[:2])
            verdict = "allowed" if allowed else "inaccurate at every point"
            print(f"{speed:7.1f}/s {describe(own)}: {verdict}", flush=True)
            if allowed:
                found.append((speed, own))
    return found


if __name__ == "__main__":
    main()
