"""Sockets, cores and SMT siblings, from the text of /proc/cpuinfo."""

from __future__ import annotations

from dataclasses import dataclass


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


def parse_cpuinfo(cpuinfo: str, nodes: dict[int, int]) -> tuple[Cpu, ...]:
    """The logical CPUs in the text of /proc/cpuinfo. `nodes` maps CPU number to NUMA node.

    If the text has no core ids, as on most virtual ARM machines, each CPU counts as a core.
    """
    cpus = []
    for block in _blocks(cpuinfo):
        if "processor" not in block or not block["processor"].isdigit():
            continue
        number = int(block["processor"])
        cpus.append(
            Cpu(
                number=number,
                core=int(block.get("core id", number)),
                socket=int(block.get("physical id", 0)),
                node=nodes.get(number, 0),
            )
        )
    return tuple(cpus)


def cpu_model(cpuinfo: str) -> str | None:
    """The marketing name of the first CPU, or None if the text has none."""
    for block in _blocks(cpuinfo):
        if block.get("model name"):
            return block["model name"]
    return None


def parse_cpulist(text: str) -> list[int]:
    """The numbers in the kernel's list format: `0-3,8` -> [0, 1, 2, 3, 8]."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            numbers.extend(range(int(low), int(high or low) + 1))
    return numbers
