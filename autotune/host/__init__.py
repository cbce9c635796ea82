"""The machine as this process may use it, within its affinity mask and cgroup limits."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from autotune.host.isa import instruction_sets
from autotune.host.libraries import find_libraries, huge_pages_refused
from autotune.host.limits import Limits, cgroup_limits
from autotune.host.topology import Cpu, cpu_model, parse_cpuinfo, parse_cpulist


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine, limited by the affinity mask and the cgroups of this process."""

    model_name: str
    cpus: tuple[Cpu, ...]  # every online CPU of the machine
    allowed: tuple[int, ...]  # CPU numbers in this process's affinity mask
    cpu_quota: float | None  # in CPUs: 1.5 is 1.5 seconds of CPU time a second; None: no limit
    memory_bytes: int  # the machine's memory, or the cgroup limit if that is smaller
    memory_limited: bool  # whether `memory_bytes` is a cgroup limit
    instruction_sets: tuple[str, ...]
    kernel: str
    libraries: Mapping[str, str] = field(default_factory=dict)  # name -> path
    huge_pages_refused: str | None = None  # why they are not available, None: they are

    @property
    def usable(self) -> tuple[Cpu, ...]:
        """The CPUs in the affinity mask."""
        return tuple(cpu for cpu in self.cpus if cpu.number in self.allowed)

    @property
    def cores(self) -> int:
        """How many physical cores the process may keep busy, at least 1.

        This is the number of cores in the affinity mask, or the quota rounded down if that is
        smaller.
        """
        physical = len({(cpu.socket, cpu.core) for cpu in self.usable})
        if self.cpu_quota is not None:
            physical = min(physical, int(self.cpu_quota))
        return max(1, physical)

    @property
    def sockets(self) -> int:
        """How many sockets the usable CPUs are on."""
        return len({cpu.socket for cpu in self.usable})

    @property
    def nodes(self) -> int:
        """How many NUMA nodes the usable CPUs are on."""
        return len({cpu.node for cpu in self.usable})

    @property
    def threads_per_core(self) -> int:
        """How many SMT siblings a core of this machine has, allowed or not."""
        cores = len({(cpu.socket, cpu.core) for cpu in self.cpus})
        return max(1, len(self.cpus) // max(1, cores))

    def placement(self, pinning: str, instances: int, threads: int) -> list[tuple[int, ...]]:
        """The CPU numbers of each instance.

        With `none`, every instance may use every allowed CPU. Otherwise each thread has its own
        physical core. `compact` fills one NUMA node after another, and no instance is on two
        nodes if it fits in one. `spread` takes cores from all nodes in turn, to use the memory
        bandwidth of each node.
        """
        if pinning == "none":
            return [self.allowed] * instances
        nodes: dict[tuple[int, int], dict[int, int]] = {}  # sockets too: some kernels hide nodes
        for cpu in sorted(self.usable, key=lambda c: (c.node, c.socket, c.core, c.number)):
            nodes.setdefault((cpu.node, cpu.socket), {}).setdefault(cpu.core, cpu.number)
        per_node = [list(cores.values()) for cores in nodes.values()]
        if pinning == "compact":
            return [_take_neighbours(per_node, threads) for _ in range(instances)]
        # The first core of every node, then the second of every node, and so on.
        interleaved = itertools.chain(*itertools.zip_longest(*per_node))
        order = [cpu for cpu in interleaved if cpu is not None]
        return [tuple(order[i * threads : (i + 1) * threads]) for i in range(instances)]

    def fingerprint(self) -> dict[str, str | int | float | None]:
        """The facts on which measurements depend. Hosts with equal facts can share measurements."""
        return {
            "model_name": self.model_name,
            "cores": self.cores,
            "sockets": self.sockets,
            "threads_per_core": self.threads_per_core,
            "cpu_quota": self.cpu_quota,
            "memory_gib": round(self.memory_bytes / 2**30),
            "instruction_sets": ",".join(self.instruction_sets),
        }

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the fingerprint."""
        canonical = json.dumps(self.fingerprint(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _take_neighbours(free: list[list[int]], threads: int) -> tuple[int, ...]:
    """Remove so many CPU numbers from `free`, a list for each node, and return them.

    They are of the first node that has enough. If none has, of one node after another.
    """
    for node in free:
        if len(node) >= threads:
            taken, node[:] = node[:threads], node[threads:]
            return tuple(taken)
    taken = []
    for node in free:
        missing = threads - len(taken)
        taken += node[:missing]
        del node[:missing]
    return tuple(taken)


def detect(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> Host:
    """Read this host. Tests replace `/` by `root`, and the affinity mask by `allowed`."""

    def read(path: str) -> str | None:
        try:
            return (root / path.lstrip("/")).read_text()
        except (OSError, ValueError):
            return None

    cpuinfo = read("/proc/cpuinfo") or ""
    nodes: dict[int, int] = {}
    for folder in sorted((root / "sys/devices/system/node").glob("node[0-9]*")):
        listed = read(f"/sys/devices/system/node/{folder.name}/cpulist") or ""
        nodes.update(dict.fromkeys(parse_cpulist(listed), int(folder.name[4:])))
    cpus = parse_cpuinfo(cpuinfo, nodes)
    mask = allowed if allowed is not None else frozenset(os.sched_getaffinity(0))
    if not cpus:  # on some architectures cpuinfo lists no CPUs
        cpus = tuple(Cpu(number=n, core=n, socket=0, node=nodes.get(n, 0)) for n in sorted(mask))
    limits: Limits = cgroup_limits(read)
    total = psutil.virtual_memory().total
    limited = limits.memory_bytes is not None and limits.memory_bytes < total
    return Host(
        model_name=cpu_model(cpuinfo) or platform.machine(),
        cpus=cpus,
        allowed=tuple(sorted(mask)),
        cpu_quota=limits.cpus,
        memory_bytes=limits.memory_bytes if limited and limits.memory_bytes else total,
        memory_limited=limited,
        instruction_sets=instruction_sets(cpuinfo),
        kernel=platform.release(),
        libraries=find_libraries(root),
        huge_pages_refused=huge_pages_refused(root),
    )
