"""Does the script that a search writes reach what the search promised?

    python bench/fidelity.py [--time-budget 90s] [--launches 3] [--models FOLDER --data FOLDER]

Searches of different models, objectives and engines, each followed by further runs of its
launch.sh. Prints for each the launched speed over the promised one, first as the search itself
found it, then the median of all launches: a host that is busy for some seconds disturbs one
launch, a script that does something else than was measured all of them. `--models` and `--data`
name folders with minilm-l6-sst2, minilm-l6-wnut17 and their rows; without, the demo alone.
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


def launched(run: Path) -> float:
    done = subprocess.run(
        ["bash", str(run / "launch.sh"), "--json"], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)["ratio"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-budget", default="90s")
    parser.add_argument(
        "--launches", type=int, default=3, help="of each, the search's own included"
    )
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    near, count = 0, 0
    for name, arguments in cases(options.models, options.data):
        with tempfile.TemporaryDirectory(prefix="autotune-fidelity-") as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "autotune", "search", *arguments, "--no-learned"]
            command += ["--time-budget", options.time_budget, "--output", str(run)]
            subprocess.run(command, check=True, capture_output=True)
            report = json.loads((run / "report.json").read_text())
            ratios = [float(report["launch_check"]["ratio"])]
            ratios += [launched(run) for _ in range(options.launches - 1)]
        median = statistics.median(ratios)
        near, count = near + (abs(median - 1) <= NEAR), count + 1
        same = "same" if report["launch_check"]["same_metrics"] else "OTHER"
        print(
            f"{name:28} {ratios[0]:.3f}, median of {len(ratios)} {median:.3f}; {same} metrics; "
            f"{report['best']['description']}",
            flush=True,
        )
    print(f"{near} of {count} within {NEAR:.0%}")


if __name__ == "__main__":
    main()
