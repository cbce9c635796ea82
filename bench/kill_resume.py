"""Kill searches at random moments, resume them, and check that nothing is lost or left over.

    python bench/kill_resume.py --times 20 [--seed 0] [--cpus 0,1] [--signals KILL,TERM,INT,HUP]

Each search runs the demo on a few rows. The search gets a signal at a random moment and is resumed.
Each time, it gets another signal with probability one half, until it ends by itself. The checks:

- every trial that was on disk before is still there, unchanged and in its place;
- no configuration was measured twice, and the run is complete;
- no worker process and no temporary file is left.

Prints a line for each search, and exits 1 on the first violation.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TRIALS = 3
# The finals take a share of the time budget. The trials alone need less than 90 s.
SEARCH = ["--trials", str(TRIALS), "--time-budget", "90s", "--set", "mode=eager"]
SMALL = ["--max-samples", "2", "--max-seq-length", "64", "--doc-stride", "16"]
RUN_S = 45.0
"""About the seconds of an undisturbed search; signals come at any moment of them."""


def whole_lines(path: Path) -> list[bytes]:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines()


def workers_of(folder: Path) -> list[int]:
    """Process ids of the processes whose command line names the run's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(entry.name))
    return found


def start(folder: Path, resume: bool, cpu: int) -> subprocess.Popen[bytes]:
    arguments = ["--model", "demo", "--output", str(folder), *SEARCH, *SMALL]
    if resume:
        arguments.append("--resume")
    return subprocess.Popen(
        ["taskset", "-c", str(cpu), sys.executable, "-m", "autotune", "search", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary_of(folder))},
    )


def temporary_of(folder: Path) -> Path:
    """The folder for the temporary files of a search in `folder`."""
    return folder.with_name(f"{folder.name}.tmp")


def check(condition: bool, words: str) -> None:
    if not condition:
        raise SystemExit(f"VIOLATED: {words}")


def one(folder: Path, seed: int, cpus: queue.Queue[int], signals: list[str]) -> str:
    """`kill_and_resume` on a CPU that no other search uses."""
    cpu = cpus.get()
    try:
        return kill_and_resume(folder, seed, cpu, signals)
    finally:
        cpus.put(cpu)


def kill_and_resume(folder: Path, seed: int, cpu: int, signals: list[str]) -> str:
    """Kill and resume one search until it ends; returns what happened, in words."""
    rng = random.Random(seed)
    temporary_of(folder).mkdir()
    kills: list[str] = []
    before: list[bytes] = []
    resume = False
    while True:
        process = start(folder, resume, cpu)
        deadline = rng.uniform(0.2, RUN_S) if not kills or rng.random() < 0.5 else None
        try:
            _, errors = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            sent = rng.choice(signals)
            process.send_signal(signal.Signals[f"SIG{sent}"])
            _, errors = process.communicate()
            check(b"Traceback" not in errors, f"{sent}: {errors.decode()}")
            for _ in range(50):
                if not workers_of(folder):
                    break
                time.sleep(0.1)
            check(not workers_of(folder), "a worker outlived its search")
            now = whole_lines(folder / "trials.jsonl")
            check(now[: len(before)] == before, "a finished trial was lost or changed")
            before, resume = now, folder.exists()  # a search removes a folder without results
            kills.append(f"{deadline:.0f}s/{len(now)} trials by {sent}")
            continue
        check(process.returncode == 0, f"exit code {process.returncode}: {errors.decode()}")
        break
    now = whole_lines(folder / "trials.jsonl")
    check(now[: len(before)] == before, "a finished trial was lost or changed")
    trials = [json.loads(line) for line in now]
    configs = [(t["origin"], json.dumps(t["config"], sort_keys=True)) for t in trials]
    first = [config for origin, config in configs if origin not in ("again", "final")]
    finals = [config for origin, config in configs if origin == "final"]
    visits = collections.Counter(finals)
    check(len(first) == len(set(first)), "a trial was repeated")
    check(len(first) == TRIALS, "a trial is missing")
    check(len(visits) >= 2 and len(set(visits.values())) == 1, f"uneven finals: {visits}")
    check((folder / "report.json").exists(), "no report")
    check(not (folder / ".work").exists(), "scratch files are left")
    left = list(temporary_of(folder).iterdir())
    check(not left, f"temporary files are left: {left}")
    moments = ", ".join(kills) or "no moment (the search ended first)"
    return f"killed at {moments}; {len(trials)} trials"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--signals", default="KILL", help="signals to draw from, e.g. KILL,TERM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cpus",
        default=",".join(map(str, sorted(os.sched_getaffinity(0)))),
        help="CPUs that run one search at a time each, e.g. 0,1",
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="autotune-kill-") as parent,
        ThreadPoolExecutor(len(options.cpus.split(","))) as pool,
    ):
        cpus: queue.Queue[int] = queue.Queue()
        for cpu in options.cpus.split(","):
            cpus.put(int(cpu))
        folders = [Path(parent) / f"search-{number:03}" for number in range(options.times)]
        seeds = [1000 * options.seed + number for number in range(options.times)]
        for number, outcome in enumerate(
            pool.map(
                one,
                folders,
                seeds,
                [cpus] * options.times,
                [options.signals.split(",")] * options.times,
            ),
            start=1,
        ):
            print(f"{number:2}: {outcome}", flush=True)
    print(f"{options.times} searches killed and resumed: no finished trial lost or repeated")


if __name__ == "__main__":
    main()
