"""CPU quota and memory limit of the cgroups this process is in, v1 and v2.

A limit may stand on any ancestor, so every level is read and the smallest wins. Inside a
container the path in /proc/self/cgroup may not exist under the mount; then its existing
ancestors, at least the mount's root, are what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

Read = Callable[[str], str | None]
"""Text of an absolute path, or None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpus: float | None  # CPUs' worth of time, None: unlimited
    memory_bytes: int | None


def _levels(path: str) -> Iterator[str]:
    """`/a/b` -> `/a/b`, `/a`, `` (the root)."""
    pure = PurePosixPath("/" + path.lstrip("/"))
    for level in (pure, *pure.parents):
        yield "" if str(level) == "/" else str(level)


def _number(text: str | None) -> int | None:
    try:
        return int(text.strip()) if text is not None else None
    except ValueError:
        return None


def _quota_v2(text: str | None) -> float | None:
    """`cpu.max`: `max 100000` or `150000 100000`."""
    parts = (text or "").split()
    if len(parts) != 2 or parts[0] == "max":
        return None
    return int(parts[0]) / int(parts[1])


def cgroup_limits(read: Read) -> Limits:
    """The smallest limits on the way from this process's cgroups to the root."""
    cpus: list[float] = []
    memory: list[int] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for level in _levels(path):
            if not controllers:  # the v2 hierarchy
                base = f"/sys/fs/cgroup{level}"
                quota = _quota_v2(read(f"{base}/cpu.max"))
                limit = _number(read(f"{base}/memory.max"))
            else:
                quota = limit = None
                names = controllers.split(",")
                if "cpu" in names:
                    folder = _mounted(read, names, "cpu", "cpu.cfs_period_us")
                    quota_us = _number(read(f"{folder}{level}/cpu.cfs_quota_us"))
                    period_us = _number(read(f"{folder}{level}/cpu.cfs_period_us"))
                    if quota_us is not None and quota_us > 0 and period_us:
                        quota = quota_us / period_us
                if "memory" in names:
                    limit = _number(read(f"/sys/fs/cgroup/memory{level}/memory.limit_in_bytes"))
            if quota is not None:
                cpus.append(quota)
            if limit is not None:
                memory.append(limit)
    return Limits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _mounted(read: Read, names: list[str], controller: str, probe: str) -> str:
    """Where a v1 controller is mounted: `cpu,cpuacct`, `cpuacct,cpu` or alone."""
    for folder in (",".join(names), ",".join(reversed(names)), controller):
        if read(f"/sys/fs/cgroup/{folder}/{probe}") is not None:
            return f"/sys/fs/cgroup/{folder}"
    return f"/sys/fs/cgroup/{controller}"
