"""Sockets, cores and SMT siblings, from sysfs, or from the text of /proc/cpuinfo without sysfs.

The numbers in sysfs are the kernel's, as are those of an affinity mask. In a container,
/proc/cpuinfo may be a stand-in (lxcfs) that numbers the container's CPUs from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from autotune.host.limits import Read, number_in

SYSFS = "/sys/devices/system/cpu"
USUAL_THREADS_PER_CORE = 2
"""A core of a machine that does not say how many SMT siblings it has may have this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """One logical CPU. CPUs with the same socket and core are SMT siblings."""

    number: int
    core: int
    socket: int
    node: int  # NUMA node


def _blocks(cpuinfo: str) -> list[dict[str, str]]:
    """The keys and values of each block, usually one block for each CPU."""
    blocks = []
    for text in cpuinfo.strip().split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        blocks.append({key.strip(): value.strip() for key, _, value in pairs})
    return blocks


def read_cpus(
    read: Read,
    *,
    listed: Iterable[int],
    allowed: Collection[int],
    cpuinfo: str,
    nodes: Mapping[int, int],
) -> tuple[Cpu, ...]:
    """The online CPUs, with every one that is `allowed`, in the order of their numbers.

    `listed` are the numbers of the CPUs in sysfs, which may leave out some of the `allowed` ones.
    `nodes` maps CPU number to NUMA node. A CPU of which nothing is known counts as a core.
    """
    known: dict[int, Cpu] = {}
    for number in {*listed, *allowed}:
        cpu = _cpu_in_sysfs(read, number, nodes)
        if cpu is not None:
            known[number] = cpu
    if not known:
        known = {cpu.number: cpu for cpu in parse_cpuinfo(cpuinfo, nodes)}
        if not known.keys() >= set(allowed):  # it numbers the CPUs in a way of its own
            known = {}
    unknown = {n: Cpu(number=n, core=n, socket=0, node=nodes.get(n, 0)) for n in allowed}
    return tuple(cpu for _, cpu in sorted({**unknown, **known}.items()))


def _cpu_in_sysfs(read: Read, number: int, nodes: Mapping[int, int]) -> Cpu | None:
    """CPU `number` as sysfs describes it; None if it is offline or not described.

    A core has the lowest number of its SMT siblings, because `core_id` may repeat in a socket.
    """
    folder = f"{SYSFS}/cpu{number}/topology"
    siblings = parse_cpulist(
        read(f"{folder}/core_cpus_list") or read(f"{folder}/thread_siblings_list") or ""
    )
    if not siblings:
        return None
    socket = number_in(read(f"{folder}/physical_package_id")) or 0  # -1 on some virtual machines
    return Cpu(number=number, core=min(siblings), socket=max(0, socket), node=nodes.get(number, 0))


def parse_cpuinfo(cpuinfo: str, nodes: Mapping[int, int]) -> tuple[Cpu, ...]:
    """The logical CPUs in the text of /proc/cpuinfo. `nodes` maps CPU number to NUMA node.

    Each CPU counts as a core if the text has no core ids, as on most virtual ARM machines, or if
    more CPUs share a core than can: some virtual machines give all of them the same id.
    """
    cpus: list[Cpu] = []
    threads_per_core = USUAL_THREADS_PER_CORE
    for block in _blocks(cpuinfo):
        number = number_in(block.get("processor"))
        if number is None:
            continue
        core, socket = (number_in(block.get(key)) for key in ("core id", "physical id"))
        siblings, cores = (number_in(block.get(key)) for key in ("siblings", "cpu cores"))
        if siblings and cores:
            threads_per_core = max(threads_per_core, siblings // cores)
        cpus.append(
            Cpu(
                number=number,
                core=number if core is None or core < 0 else core,
                socket=max(0, socket or 0),
                node=nodes.get(number, 0),
            )
        )
    shared = Counter((cpu.socket, cpu.core) for cpu in cpus)
    if max(shared.values(), default=0) > threads_per_core:
        return tuple(replace(cpu, core=cpu.number) for cpu in cpus)
    return tuple(cpus)


def cpu_model(cpuinfo: str) -> str | None:
    """The marketing name of the first CPU, or None if the text has none."""
    for block in _blocks(cpuinfo):
        if block.get("model name"):
            return block["model name"]
    return None


def parse_cpulist(text: str) -> list[int]:
    """The numbers in the kernel's list format: `0-3,8` -> [0, 1, 2, 3, 8]. Others are skipped."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        low, dash, high = part.partition("-")
        first, last = number_in(low), number_in(high if dash else low)
        if first is not None and last is not None:
            numbers.extend(range(first, last + 1))
    return numbers
