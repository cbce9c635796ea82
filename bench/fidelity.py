"""Does launch.sh reach the speed that the search promised?

    python bench/fidelity.py [--time-budget 90s] [--models FOLDER --data FOLDER]

Runs searches of different models, objectives and engines. At its end each search runs its launch.sh
and compares the speed with two others: the promise, and the search's own process that runs in turn
with the script. The first ratio is off if the host has changed since. The second is off if the
script does something other than the search measured.

`--models` and `--data` name folders with the models minilm-l6-sst2 and minilm-l6-wnut17 and with
their rows. Without them only the demo runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MAX_DEVIATION = 0.05
"""A ratio counts as reached if it is within this of 1."""


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
            f"{name:28} ratio to the promise {check['ratio']:.3f}, to the search's own process "
            f"{check['beside']['median']:.3f} ({check['beside']['low']:.3f} to "
            f"{check['beside']['high']:.3f}); {same} metrics; {report['best']['description']}",
            flush=True,
        )
    print(
        f"within {MAX_DEVIATION:.0%} of the promise: {promised} of {count}; "
        f"of the search's own process: {beside} of {count}"
    )


def near(ratio: float) -> bool:
    return abs(ratio - 1) <= MAX_DEVIATION


if __name__ == "__main__":
    main()
