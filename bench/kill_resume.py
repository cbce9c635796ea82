"""Ends searches with signals at random moments, resumes them, and checks what is left.

    python bench/kill_resume.py --times 20 [--seed 0] [--cpus 0,1] [--signals KILL,TERM,INT,HUP]

Each search runs the demo on a few rows and gets a signal at a random moment. It is then resumed and
gets another signal with a probability of one half, until it ends. These rules must hold:

- Every trial that was on disk before is still there, unchanged and in place.
- No configuration was measured twice, except in the finals.
- The run is complete.
- No worker and no temporary file is left.

Prints one line for each search, and exits 1 on the first violation.
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
# The finals take a share of the budget; the trials need less time than that.
SEARCH = ["--trials", str(TRIALS), "--time-budget", "90s", "--set", "mode=eager"]
SMALL = ["--max-samples", "2", "--max-seq-length", "64", "--doc-stride", "16"]
RUN_S = 45.0  # about how long an undisturbed search takes; signals fall anywhere in it


def whole_lines(path: Path) -> list[bytes]:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines()


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names the run's folder."""
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
    """Where a search in `folder` is told to put its temporary files."""
    return folder.with_name(f"{folder.name}.tmp")


def check(condition: bool, words: str) -> None:
    if not condition:
        raise SystemExit(f"VIOLATED: {words}")


def search_on_free_cpu(folder: Path, seed: int, cpus: queue.Queue[int], signals: list[str]) -> str:
    """Kill and resume one search on a free CPU until it ends; return what happened, in words."""
    cpu = cpus.get()
    try:
        return kill_and_resume(folder, seed, cpu, signals)
    finally:
        cpus.put(cpu)


def kill_and_resume(folder: Path, seed: int, cpu: int, signals: list[str]) -> str:
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
            # A search that is interrupted before its first trial removes its folder.
            before, resume = now, folder.exists()
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
    return f"killed at {', '.join(kills) or 'no moment (it ended first)'}; {len(trials)} trials"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--signals", default="KILL", help="signals to draw from, e.g. KILL,TERM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cpus",
        default=",".join(map(str, sorted(os.sched_getaffinity(0)))),
        help="CPUs, each runs one search at a time, e.g. 0,1",
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
                search_on_free_cpu,
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
