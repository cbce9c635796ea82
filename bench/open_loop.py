"""Does `autotune serve-test` see the p99 that an independent client sees?

    python bench/open_loop.py reports/RUN --rate 60 [--seconds 4] [--rounds 50]

Two sides get the same requests, in turn. Each round has other rows and other arrival times.

- One side is the worker that serve-test asks.
- The other side is an independent client over the same engine, in a process of its own. One thread
  issues each request when it is due, another thread answers it, and a queue lies between. The
  worker does both in one thread.

Both processes stay open. The windows are short and many, because waiting multiplies the changes of
the host's speed. The final p99 of a side is over all its windows.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from autotune.commands.promise.reopen import reopen
from autotune.commands.promise.score import best_runner
from autotune.commands.promise.serve_test import (
    MAX_UNMET,
    MAX_WARM_UPS,
    WARM_UP_S,
    WARM_UP_SHARE,
    ServeTest,
)
from autotune.driver.command import environment, worker_commands
from autotune.host import detect
from autotune.search.serving import requests_at
from autotune.shared.padding import batch_width, fits_one_batch, plan
from autotune.shared.records import Config
from autotune.shared.stats import percentile, ratio_interval, shuffled
from autotune.store.folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(options.run, options.rate, options.seconds)
        return
    run = reopen(RunFolder(options.run))
    all_latencies: dict[str, list[float]] = {"served": [], "client": []}
    ratios = []
    with tempfile.TemporaryDirectory() as work, Client(options) as apart:
        runner = best_runner(run, detect(), Path(work))
        ServeTest(runner, run.chosen, run.expected.features, seed=0).warm_up()
        for number in range(options.rounds):
            rows, arrivals_s = window_requests(
                options.rate, options.seconds, run.expected.features, number
            )
            found = {}
            for side in shuffled(tuple(all_latencies), random.Random()):
                if side == "served":
                    found[side] = list(runner.serve(run.chosen, rows, arrivals_s).latency_s)
                else:
                    found[side] = apart.latencies(number)
                all_latencies[side] += found[side]
            here = {side: p99(latencies) for side, latencies in found.items()}
            ratios.append(here["served"] / here["client"])
            print(
                f"p99 {1000 * here['served']:.1f} ms by serve-test, {1000 * here['client']:.1f} ms "
                f"by the client: {ratios[-1]:.3f}",
                flush=True,
            )
        runner.close()
    told = ratio_interval(ratios)
    print(
        f"of all {len(all_latencies['served'])} requests: "
        f"{p99(all_latencies['served']) * 1000:.1f} and "
        f"{p99(all_latencies['client']) * 1000:.1f} ms, "
        f"{p99(all_latencies['served']) / p99(all_latencies['client']):.3f}; of the rounds "
        f"{told.median:.3f} ({told.low:.3f} to {told.high:.3f})"
    )


def p99(latencies: list[float]) -> float:
    return percentile(latencies, 99)


def window_requests(
    rate: float, seconds: float, features: int, seed: int
) -> tuple[list[int], list[float]]:
    """Rows and arrival times in seconds of the requests with this seed, the same for both sides."""
    return requests_at(rate, seconds, features, np.random.default_rng(seed))


class Client:
    """The client process, in the environment and on the CPUs of the run's configuration."""

    def __init__(self, options: Any) -> None:
        run, host = reopen(RunFolder(options.run)), detect()
        (command,) = worker_commands(run.chosen, host, str(run.best["stack"]["python"]))
        root = Path(__file__).parent.parent
        argv = [command.argv[0], __file__, str(options.run), "--client"]
        argv += ["--rate", str(options.rate), "--seconds", str(options.seconds)]
        settings = {
            **environment(command, os.environ, tempfile.gettempdir()),
            "PYTHONPATH": str(root),
        }
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, env=settings, stdin=pipe, stdout=pipe, text=True)
        self._line()  # the client says that it is warm

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def latencies(self, seed: int) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        found: list[float] = self._line()
        return found

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def client(folder: Path, rate: float, seconds: float) -> None:
    """Answer each seed on standard input with the latencies of its requests, in seconds."""
    from autotune.driver.runner import POINT_KNOBS, SESSION_KNOBS
    from autotune.shared.records import to_jsonable
    from autotune.worker.operations import Operations
    from autotune.worker.serve import warm_up_shapes

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep what libraries print out of the answers
    run, host = reopen(RunFolder(folder)), detect()
    kept = RunFolder(folder).engine
    with tempfile.TemporaryDirectory() as work:
        session = Operations(work)
        session.open(
            source=to_jsonable(run.source),
            session=run.chosen.only(SESSION_KNOBS),
            features=str(run.folder.workload.resolve()),
            calibration=str(run.folder.calibration.resolve()),
            reference=None,
            instruction_sets=list(host.instruction_sets),
            cache=str(kept / str(run.chosen["stack"])) if kept.exists() else work,
            keep=False,
        )
        opened = session._opened
        assert opened is not None
        point = run.chosen.only(POINT_KNOBS)
        call, features = opened.prepared.call, opened.features
        start = time.monotonic()
        for planned in plan(features.lengths, max_seq_length=features.max_seq_length, **point):
            call(features.batch(planned.rows, planned.width))
        rate_warming = WARM_UP_SHARE * len(features) / (time.monotonic() - start)
        warming = np.random.default_rng(1_000_000)
        seen: set[tuple[int, int]] = set()
        warm_up_shapes(call, features, point=point, seen_shapes=seen)
        for _ in range(MAX_WARM_UPS):
            some = requests_at(rate_warming, WARM_UP_S, len(features), warming)
            shapes = collections.Counter(drive(call, features, point, *some)[1])
            unmet = len(shapes.keys() - seen)
            seen |= shapes.keys()
            if unmet <= MAX_UNMET * shapes.total():
                break
        print(json.dumps("warm"), file=answers, flush=True)
        for line in sys.stdin:
            here = window_requests(rate, seconds, len(features), int(line))
            print(json.dumps(drive(call, features, point, *here)[0]), file=answers, flush=True)


def drive(
    call: Any, features: Any, point: Config, rows: list[int], arrivals_s: list[float]
) -> tuple[list[float], list[tuple[int, int]]]:
    """Latencies in seconds of requests that one thread issues and another answers, and the shapes
    of their batches."""
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
                if batch and not fits_one_batch(lengths, **point):
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
