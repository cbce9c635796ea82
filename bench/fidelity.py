"""Does launch.sh reach the speed that the search promised?

    python bench/fidelity.py [--time-budget 90s] [--models FOLDER --data FOLDER]

Runs searches of different models, objectives and engines. Each search runs its launch.sh at the
end; this benchmark prints two ratios of the speed found there:

- to the promised speed, which differs from 1 if the host has changed meanwhile;
- to the speed of the search's own process, visited in turn with launch.sh, which differs from 1 if
  launch.sh does something else than was measured.

`--models` and `--data` name folders with minilm-l6-sst2, minilm-l6-wnut17 and their rows. Without
them only the demo is searched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOLERANCE = 0.05


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-budget", default="90s")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    promised, beside, count = 0, 0, 0
    for name, arguments in cases(options.models, options.data):
        with tempfile.TemporaryDirectory(prefix="autotune-fidelity-") as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "-m", "autotune", "search", *arguments, "--no-learned"]
            command += ["--time-budget", options.time_budget, "--output", str(run)]
            subprocess.run(command, check=True, capture_output=True)
            report = json.loads((run / "report.json").read_text())
        check = report["launch_check"]
        promised, beside = promised + near(check["ratio"]), beside + near(check["beside"]["median"])
        count += 1
        same = "same" if check["same_metrics"] else "OTHER"
        print(
            f"{name:28} {check['ratio']:.3f} of the promise, of the search's own process "
            f"{check['beside']['median']:.3f} ({check['beside']['low']:.3f} to "
            f"{check['beside']['high']:.3f}); {same} metrics; {report['best']['description']}",
            flush=True,
        )
    print(
        f"within {TOLERANCE:.0%} of the promise: {promised} of {count}; "
        f"of its own process: {beside}"
    )


def near(ratio: float) -> bool:
    return abs(ratio - 1) <= TOLERANCE


if __name__ == "__main__":
    main()
