"""Counters that show whether other processes took CPU time while a pass was timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
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


def read_waited_s(tasks: Path = PROC_TASKS) -> dict[int, float]:
    """Seconds that each thread of this process was ready to run and had no CPU.

    Source: the second field of schedstat (Documentation/scheduler/sched-stats.rst). Empty if the
    kernel does not keep it.
    """
    waited_s = {}
    for task in tasks.iterdir():
        try:
            nanoseconds = int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # the thread has just ended, or the kernel keeps no schedstat
            continue
        waited_s[int(task.name)] = nanoseconds / 1e9
    return waited_s


def read_used_cpus(tasks: Path = PROC_TASKS) -> frozenset[int]:
    """The CPUs on which the threads of this process ran last (field 39 of stat, proc(5))."""
    cpus = set()
    for task in tasks.iterdir():
        try:
            after_name = (task / "stat").read_text().rpartition(")")[2].split()
            cpus.add(int(after_name[36]))
        except (OSError, IndexError):
            continue
    return frozenset(cpus)


def read_stolen_s(stat: Path = PROC_STAT) -> dict[int, float]:
    """Seconds that the hypervisor kept from each CPU of the machine.

    The resolution is one tick. Empty if the kernel does not keep it.
    """
    try:
        lines = [line.split() for line in stat.read_text().splitlines()]
    except OSError:
        return {}
    return {
        int(fields[0][3:]): int(fields[8]) * TICK_S
        for fields in lines
        if len(fields) > 8 and fields[0].startswith("cpu") and fields[0] != "cpu"
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What others took from this process between two moments, in seconds.

    `waited_s` is summed over its threads, `stolen_s` over the CPUs that it used. The process was
    held up by about `held_up_s` at least: by its longest waiting thread and its CPU with the most
    stolen time.
    """

    waited_s: float
    stolen_s: float
    held_up_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What others have taken from this process so far, in seconds.

    `waited_s` is by thread, `stolen_s` by CPU of the machine. `cpus` are those that it uses now.
    """

    waited_s: Mapping[int, float]
    stolen_s: Mapping[int, float]
    cpus: frozenset[int]

    @classmethod
    def now(cls) -> Taken:
        return cls(waited_s=read_waited_s(), stolen_s=read_stolen_s(), cpus=read_used_cpus())

    def since(self, before: Taken) -> Loss:
        """What others took since `before`. A thread that has ended meanwhile is left out."""
        waited = [s - before.waited_s.get(thread, 0.0) for thread, s in self.waited_s.items()]
        stolen = [
            self.stolen_s.get(cpu, 0.0) - before.stolen_s.get(cpu, 0.0)
            for cpu in self.cpus | before.cpus
        ]
        return Loss(
            waited_s=sum(waited, 0.0),
            stolen_s=sum(stolen, 0.0),
            held_up_s=max(waited, default=0.0) + max(stolen, default=0.0),
        )


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

    taken: Taken
    reference_s: float

    @classmethod
    def now(cls) -> Moment:
        return cls(taken=Taken.now(), reference_s=time_reference_s())
