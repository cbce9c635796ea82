"""Does `autotune serve-test` see the p99 that an independent client sees?

    python bench/open_loop.py reports/RUN --rate 60 [--seconds 30] [--rounds 5]

In turn, for the same rows at the same times (others in each round): serve-test; and a client of
its own over the same engine. The client is a thread that issues requests when they are due and a
thread that answers them, with a queue between: another program than the worker's, where one
thread does both. Prints the ratio of the two p99 of each round, and its median.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from autotune.folder import RunFolder
from autotune.host import detect
from autotune.launch import environment, worker_commands
from autotune.padding import batch_width, fits, plan
from autotune.reopen import reopen
from autotune.serving import UNMET, WARM_UP_S, WARM_UP_SHARE, WARM_UPS, requests_at
from autotune.stats import in_turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first round's arrivals")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(client(options.run, options.rate, options.seconds, options.seed)))
        return
    ratios = []
    for number in range(options.rounds):
        seed, found = options.seed + number, {}
        for side in in_turn(("served", "client")):
            found[side] = (served if side == "served" else apart)(options, seed)
        ratios.append(found["served"] / found["client"])
        print(
            f"p99 {1000 * found['served']:.1f} ms by serve-test, {1000 * found['client']:.1f} ms "
            f"by the client: {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median of {options.rounds} ratios: {statistics.median(ratios):.3f}")


def served(options: Any, seed: int) -> float:
    command = [sys.executable, "-m", "autotune", "serve-test", str(options.run), "--json"]
    command += arrivals(options, seed)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["best"]["p99_s"])


def arrivals(options: Any, seed: int) -> list[str]:
    wanted = {"--rate": options.rate, "--seconds": options.seconds, "--seed": seed}
    return [part for option, value in wanted.items() for part in (option, str(value))]


def apart(options: Any, seed: int) -> float:
    """The client, in the environment and on the CPUs of the run's configuration."""
    run, host = reopen(RunFolder(options.run)), detect()
    (command,) = worker_commands(run.chosen, host, str(run.best["stack"]["python"]))
    root = Path(__file__).parent.parent
    argv = [command.argv[0], __file__, str(options.run), *arrivals(options, seed), "--client"]
    settings = {**environment(command, os.environ), "PYTHONPATH": str(root)}
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def client(folder: Path, rate: float, seconds: float, seed: int) -> float:
    """p99 of the latencies, in seconds."""
    from autotune.records import to_jsonable
    from autotune.runner import ENGINE_KNOBS, POINT_KNOBS, TOLD
    from autotune.worker.serve import meet
    from autotune.worker.session import Session

    run, host = reopen(RunFolder(folder)), detect()
    kept = RunFolder(folder).engine
    with tempfile.TemporaryDirectory() as work:
        session = Session(work)
        session.open(
            source=to_jsonable(run.source),
            engine=run.chosen.only(ENGINE_KNOBS).as_dict(),
            process={name: run.chosen[name] for name in TOLD},
            features=str(run.folder.workload.resolve()),
            calibration=str(run.folder.calibration.resolve()),
            reference=None,
            instruction_sets=list(host.instruction_sets),
            cache=str(kept / str(run.chosen["stack"])) if kept.exists() else work,
            keep=False,
        )
        opened = session._opened
        assert opened is not None
        point: dict[str, Any] = run.chosen.only(POINT_KNOBS).as_dict()
        call, features = opened.prepared.call, opened.features
        start = time.monotonic()
        for planned in plan(features.lengths, max_seq_length=features.max_seq_length, **point):
            call(features.batch(planned.rows, planned.width))
        rate_warming = WARM_UP_SHARE * len(features) / (time.monotonic() - start)
        rng, warming = np.random.default_rng(seed), np.random.default_rng(seed + 1_000_000)
        met: set[tuple[int, int]] = set()
        meet(call, features, point=point, met=met)
        for _ in range(WARM_UPS):
            wanted = requests_at(rate_warming, WARM_UP_S, len(features), warming)
            shapes = collections.Counter(drive(call, features, point, *wanted)[1])
            unmet = len(shapes.keys() - met)
            met |= shapes.keys()
            if unmet <= UNMET * shapes.total():
                break
        wanted = requests_at(rate, seconds, len(features), rng)
        latencies, _ = drive(call, features, point, *wanted)
    return float(np.percentile(latencies, 99))


def drive(
    call: Any, features: Any, point: dict[str, Any], rows: list[int], arrivals_s: list[float]
) -> tuple[list[float], list[tuple[int, int]]]:
    """Latencies of requests that one thread issues and another answers, and batches' shapes."""
    requests: queue.Queue[tuple[float, int] | None] = queue.Queue()
    latencies: list[float] = []
    shapes: list[tuple[int, int]] = []

    def issue() -> None:
        start = time.monotonic()
        for row, arrival_s in zip(rows, arrivals_s, strict=True):
            due = start + arrival_s
            time.sleep(max(0.0, due - time.monotonic()))
            requests.put((due, row))
        requests.put(None)

    def answer() -> None:
        waiting: collections.deque[tuple[float, int]] = collections.deque()
        more = True
        while more or waiting:
            while more and (not waiting or not requests.empty()):
                one = requests.get()
                if one is None:
                    more = False
                else:
                    waiting.append(one)
            batch: list[tuple[float, int]] = []
            while waiting:
                lengths = [int(features.lengths[row]) for _, row in (*batch, waiting[0])]
                if batch and not fits(lengths, **point):
                    break
                batch.append(waiting.popleft())
            if not batch:
                continue
            taken = [row for _, row in batch]
            width = batch_width(
                max(int(features.lengths[row]) for row in taken),
                padding=point["padding"],
                max_seq_length=features.max_seq_length,
                bucket_step=int(point.get("bucket_step", 0)),
            )
            call(features.batch(taken, width))
            shapes.append((len(taken), width))
            now = time.monotonic()
            latencies.extend(now - due for due, _ in batch)

    issuing = threading.Thread(target=issue)
    issuing.start()
    answer()
    issuing.join()
    return latencies, shapes


if __name__ == "__main__":
    main()
