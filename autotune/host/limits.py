"""CPU quota and memory limit of the cgroups (v1 and v2) of this process.

Any ancestor of a cgroup may have a limit. Therefore every level is read and the smallest limit
counts. Inside a container, the path in /proc/self/cgroup may not exist under the mount. Then only
its existing ancestors count, at least the root of the mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

Read = Callable[[str], str | None]
"""Path -> text of the file at that absolute path, or None if it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of the cgroups; None: unlimited."""

    cpus: float | None  # CPU time in CPUs: 1.5 is 1.5 seconds a second
    memory_bytes: int | None


def _levels(path: str) -> Iterator[str]:
    """A cgroup's path and its ancestors: `/a/b` -> `/a/b`, `/a` and `` (the root)."""
    pure = PurePosixPath("/" + path.lstrip("/"))
    for level in (pure, *pure.parents):
        yield "" if str(level) == "/" else str(level)


def number_in(text: str | None) -> int | None:
    """The whole number in `text`, or None if it holds none (v2 writes `max`)."""
    try:
        return int(text.strip()) if text is not None else None
    except ValueError:
        return None


def _quota_v2(text: str | None) -> float | None:
    """The quota in CPUs in a `cpu.max`: `150000 100000` is 1.5, `max 100000` is None."""
    quota, _, period = (text or "").strip().partition(" ")
    return _share(number_in(quota), number_in(period))


def _share(quota_us: int | None, period_us: int | None) -> float | None:
    """CPU time in CPUs, or None where there is no limit: v1 writes -1 for that."""
    if not quota_us or not period_us or quota_us < 0 or period_us < 0:
        return None
    return quota_us / period_us


def cgroup_limits(read: Read) -> Limits:
    """The smallest limits of this process's cgroups and their ancestors."""
    cpus: list[float] = []
    memory: list[int] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if not (first and second):
            continue
        for level in _levels(path):
            if not controllers:  # the v2 hierarchy
                base = f"/sys/fs/cgroup{level}"
                quota = _quota_v2(read(f"{base}/cpu.max"))
                limit = number_in(read(f"{base}/memory.max"))
            else:
                quota = limit = None
                names = controllers.split(",")
                if "cpu" in names:
                    folder = _mounted(read, names, "cpu", "cpu.cfs_period_us")
                    quota = _share(
                        number_in(read(f"{folder}{level}/cpu.cfs_quota_us")),
                        number_in(read(f"{folder}{level}/cpu.cfs_period_us")),
                    )
                if "memory" in names:
                    limit = number_in(read(f"/sys/fs/cgroup/memory{level}/memory.limit_in_bytes"))
            if quota is not None:
                cpus.append(quota)
            if limit is not None and limit > 0:
                memory.append(limit)
    return Limits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _mounted(read: Read, names: list[str], controller: str, probe: str) -> str:
    """The folder where a v1 controller is mounted: `cpu,cpuacct`, `cpuacct,cpu` or `cpu`.

    `probe` is a file that the folder has.
    """
    for folder in (",".join(names), ",".join(reversed(names)), controller):
        if read(f"/sys/fs/cgroup/{folder}/{probe}") is not None:
            return f"/sys/fs/cgroup/{folder}"
    return f"/sys/fs/cgroup/{controller}"
