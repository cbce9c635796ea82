"""Does the script that a search writes reach what the search promised?

    python bench/fidelity.py [--time-budget 90s] [--rounds 2] [--models FOLDER --data FOLDER]

Searches of different models, objectives and engines. Prints for each the speed of its launch.sh
over the promised one, as the search itself found it, and then over that of `autotune run`, which
measures with the search's own workers, in turn, the median of so many rounds: the first is off
where the host has changed meanwhile, the second where the script does something else than was
measured. `--models` and `--data` name folders with minilm-l6-sst2, minilm-l6-wnut17 and their
rows; without, the demo alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autotune.stats import in_turn

NEAR = 0.05


def cases(models: Path | None, data: Path | None) -> Iterator[tuple[str, list[str]]]:
    demo = ["--model", "demo"]
    for objective in ("throughput", "latency"):
        yield f"demo {objective}", [*demo, "--objective", objective]
        if models is not None and data is not None:
            for task, model, rows in (
                ("text-classification", "minilm-l6-sst2", "sst2-dev.jsonl"),
                ("token-classification", "minilm-l6-wnut17", "wnut17-dev.jsonl"),
            ):
                named = ["--model", str(models / model), "--dataset", str(data / rows)]
                yield f"{model} {objective}", ["--task", task, *named, "--objective", objective]
    for mode in ("jit", "ipex_jit", "onnxruntime", "eager"):
        yield f"demo {mode}", [*demo, "--set", f"mode={mode}"]


def beside(run: Path) -> float:
    """launch.sh over `autotune run`, one after the other."""
    ways = {
        "launch": ["bash", str(run / "launch.sh"), "--json"],
        "run": [sys.executable, "-m", "autotune", "run", str(run), "--json"],
    }
    found = {}
    for way in in_turn(list(ways)):
        done = subprocess.run(ways[way], capture_output=True, text=True, check=True)
        found[way] = float(json.loads(done.stdout)["ratio"])
    return found["launch"] / found["run"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-budget", default="90s")
    parser.add_argument("--rounds", type=int, default=2, help="of launch.sh and autotune run")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    promised, alike, count = 0, 0, 0
    for name, arguments in cases(options.models, options.data):
        with tempfile.TemporaryDirectory(prefix="autotune-fidelity-") as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "autotune", "search", *arguments, "--no-learned"]
            command += ["--time-budget", options.time_budget, "--output", str(run)]
            subprocess.run(command, check=True, capture_output=True)
            report = json.loads((run / "report.json").read_text())
            ratio = float(report["launch_check"]["ratio"])
            same_way = statistics.median(beside(run) for _ in range(options.rounds))
        promised, alike = promised + near(ratio), alike + near(same_way)
        count += 1
        same = "same" if report["launch_check"]["same_metrics"] else "OTHER"
        print(
            f"{name:28} of the promise {ratio:.3f}, of autotune run {same_way:.3f}; {same} "
            f"metrics; {report['best']['description']}",
            flush=True,
        )
    print(f"within {NEAR:.0%}: {promised} of {count} of the promise, {alike} of autotune run")


def near(ratio: float) -> bool:
    return abs(ratio - 1) <= NEAR


if __name__ == "__main__":
    main()
