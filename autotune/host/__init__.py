"""The machine as this process may use it, within its affinity mask and cgroup limits."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from autotune.host.isa import instruction_sets
from autotune.host.libraries import find_libraries, huge_pages_refused
from autotune.host.limits import Limits, cgroup_limits, number_in
from autotune.host.topology import SYSFS, Cpu, cpu_model, parse_cpulist, read_cpus

NODES = "/sys/devices/system/node"

Place = tuple[int, int]
"""A socket and a NUMA node of it."""


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
        physical core. `compact` gives an instance neighbouring cores: of one NUMA node if that has
        room for it, else of one socket. `spread` takes cores from all nodes in turn, to use the
        memory bandwidth of each node.
        """
        if pinning == "none":
            return [self.allowed] * instances
        cores = self._cores_by_place()
        if pinning == "compact":
            return _neighbouring(cores, instances, threads)
        by_node: dict[int, list[int]] = {}
        for (_, node), numbers in sorted(cores.items(), key=lambda item: item[0][::-1]):
            by_node.setdefault(node, []).extend(numbers)
        # The first core of every node, then the second of every node, and so on.
        interleaved = itertools.chain(*itertools.zip_longest(*by_node.values()))
        order = [cpu for cpu in interleaved if cpu is not None]
        return [tuple(order[i * threads : (i + 1) * threads]) for i in range(instances)]

    def _cores_by_place(self) -> dict[Place, list[int]]:
        """Socket and NUMA node -> the first usable CPU of each of their cores."""
        found: dict[Place, dict[int, int]] = {}
        for cpu in sorted(self.usable, key=lambda c: (c.socket, c.node, c.core, c.number)):
            found.setdefault((cpu.socket, cpu.node), {}).setdefault(cpu.core, cpu.number)
        return {place: list(cores.values()) for place, cores in found.items()}

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


def _neighbouring(
    cores: Mapping[Place, Sequence[int]], instances: int, threads: int
) -> list[tuple[int, ...]]:
    """The CPUs of each instance: those of the first node with room for it, else of the first
    socket, else of the machine."""
    free = {place: list(numbers) for place, numbers in cores.items()}
    sockets = dict.fromkeys(socket for socket, _ in free)
    areas = [
        *([place] for place in free),
        *([place for place in free if place[0] == socket] for socket in sockets),
        list(free),
    ]
    placed: list[tuple[int, ...]] = []
    for _ in range(instances):
        area = next((a for a in areas if sum(len(free[p]) for p in a) >= threads), areas[-1])
        taken: list[int] = []
        for place in area:
            count = threads - len(taken)
            taken += free[place][:count]
            free[place] = free[place][count:]
        placed.append(tuple(taken))
    return placed


def detect(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> Host:
    """Read this host. Tests replace `/` by `root`, and the affinity mask by `allowed`."""

    def read(path: str) -> str | None:
        try:
            file = root / path.lstrip("/")
            return file.read_text(encoding="utf-8", errors="surrogateescape")
        except (OSError, ValueError):
            return None

    def numbered(folder: str, prefix: str) -> list[int]:
        """The numbers of the folders PREFIX0, PREFIX1, ... in `folder`."""
        names = (path.name for path in (root / folder.lstrip("/")).glob(f"{prefix}[0-9]*"))
        found = (number_in(name.removeprefix(prefix)) for name in names)
        return sorted(number for number in found if number is not None)

    cpuinfo = read("/proc/cpuinfo") or ""
    nodes: dict[int, int] = {}
    for node in numbered(NODES, "node"):
        held = parse_cpulist(read(f"{NODES}/node{node}/cpulist") or "")
        nodes.update(dict.fromkeys(held, node))
    mask = allowed if allowed is not None else frozenset(os.sched_getaffinity(0))
    cpus = read_cpus(
        read, listed=numbered(SYSFS, "cpu"), allowed=mask, cpuinfo=cpuinfo, nodes=nodes
    )
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
