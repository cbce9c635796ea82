"""What else the machine did while a pass was timed."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SCHEDSTAT = Path("/proc/self/task")
STAT = Path("/proc/stat")
REFERENCE_ELEMENTS = 1 << 16
REFERENCE_ROUNDS = 24
REFERENCE_REPEATS = 3

_ONE = np.linspace(0.5, 1.5, REFERENCE_ELEMENTS, dtype=np.float32)
_OTHER = np.empty_like(_ONE)


def waited_s(tasks: Path = SCHEDSTAT) -> float:
    """Seconds that the threads of this process were ready and had no CPU, all added.

    Source: the second field of schedstat (Documentation/scheduler/sched-stats.rst); 0 where
    the kernel does not keep it.
    """
    waited = 0
    for task in tasks.iterdir():
        try:
            waited += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # it has just ended, or there is none
            continue
    return waited / 1e9


def stolen_s(stat: Path = STAT) -> float:
    """Seconds that the hypervisor kept from the CPUs of the machine, all added, in ticks."""
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) * TICK_S if len(fields) > 8 else 0.0


def taken_s() -> float:
    """CPU seconds that others have had so far when this process could have used them."""
    return waited_s() + stolen_s()


def reference_s() -> float:
    """Seconds of a small fixed computation on one thread: how fast the machine is just now.

    About a millisecond, in the second-level cache, and no threads that would go on spinning.
    """
    seconds = []
    for _ in range(REFERENCE_REPEATS):
        start = time.perf_counter()
        for _ in range(REFERENCE_ROUNDS):
            np.multiply(_ONE, _ONE, out=_OTHER)
            np.sqrt(_OTHER, out=_OTHER)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The counters at one moment."""

    waited_s: float
    stolen_s: float
    reference_s: float

    @classmethod
    def now(cls) -> Moment:
        return cls(waited_s=waited_s(), stolen_s=stolen_s(), reference_s=reference_s())
