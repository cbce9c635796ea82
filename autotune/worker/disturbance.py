"""Counters that show whether other processes took CPU time while a pass was timed."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of a tick, the unit of the CPU times in /proc/stat."""
PROC_TASKS = Path("/proc/self/task")
PROC_STAT = Path("/proc/stat")
REFERENCE_ELEMENTS = 1 << 16
"""float32 values of the reference computation's input: 256 KiB."""
REFERENCE_ROUNDS = 24
"""Times that one reference computation goes over its input."""
REFERENCE_REPEATS = 3
"""Reference computations, whose median time counts."""

_REFERENCE_INPUT = np.linspace(0.5, 1.5, REFERENCE_ELEMENTS, dtype=np.float32)
_REFERENCE_OUTPUT = np.empty_like(_REFERENCE_INPUT)


def read_waited_s(tasks: Path = PROC_TASKS) -> float:
    """Seconds that threads of this process were ready to run and had no CPU, summed over threads.

    Source: the second field of schedstat (Documentation/scheduler/sched-stats.rst). 0 if the
    kernel does not keep it.
    """
    waited = 0
    for task in tasks.iterdir():
        try:
            waited += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # the thread has just ended, or the kernel keeps no schedstat
            continue
    return waited / 1e9


def read_stolen_s(stat: Path = PROC_STAT) -> float:
    """Seconds that the hypervisor kept from the machine's CPUs, summed over CPUs.

    The resolution is one tick. 0 if the kernel does not keep it.
    """
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) * TICK_S if len(fields) > 8 else 0.0


def read_taken_s() -> float:
    """CPU seconds that other processes and machines have taken from this process so far."""
    return read_waited_s() + read_stolen_s()


def time_reference_s() -> float:
    """Seconds of a small fixed computation on one thread, to show how fast the machine is now.

    The computation takes about a millisecond and its data fits in the second-level cache. It
    starts no threads, because idle threads would go on spinning during the next pass.
    """
    seconds = []
    for _ in range(REFERENCE_REPEATS):
        start = time.perf_counter()
        for _ in range(REFERENCE_ROUNDS):
            np.multiply(_REFERENCE_INPUT, _REFERENCE_INPUT, out=_REFERENCE_OUTPUT)
            np.sqrt(_REFERENCE_OUTPUT, out=_REFERENCE_OUTPUT)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The counters at one moment. A pass reports the differences between two moments."""

    waited_s: float
    stolen_s: float
    reference_s: float

    @classmethod
    def now(cls) -> Moment:
        return cls(
            waited_s=read_waited_s(),
            stolen_s=read_stolen_s(),
            reference_s=time_reference_s(),
        )
