"""The settings that are really in effect in this process, whatever its environment asked for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from autotune.shared.records import Scalar

PROC_SELF = Path("/proc/self")
ALLOCATOR_THREAD_NAMES = ("jemalloc_bg_thd",)
"""Names of jemalloc's background threads. They set their own CPU and compute nothing."""

AddressRanges = list[tuple[int, int]]
"""First address and the address after the last, for each mapping of a file."""


def parse_mapped_files(maps: str) -> dict[str, AddressRanges]:
    """File -> address ranges, from the text of /proc/self/maps."""
    mapped: dict[str, AddressRanges] = {}
    for line in maps.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].startswith("/"):
            low, high = (int(part, 16) for part in parts[0].split("-"))
            mapped.setdefault(parts[5], []).append((low, high))
    return mapped


def find_allocator(files: dict[str, AddressRanges]) -> str:
    """`jemalloc` or `tcmalloc` if its library is among the mapped `files`, else `default`."""
    file_names = [os.path.basename(file) for file in files]
    for allocator in ("jemalloc", "tcmalloc"):
        if any(name.startswith(f"lib{allocator}") for name in file_names):
            return allocator
    return "default"


def find_openmp_library(files: dict[str, AddressRanges]) -> str:
    """The mapped file of the OpenMP runtime in use.

    That is the file whose GOMP_parallel the linker finds first: every parallel region enters
    through this function. `unknown` if no mapped file holds its address.
    """
    try:
        entry = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        return "none in the global scope"
    address = ctypes.cast(entry, ctypes.c_void_p).value or 0
    for file, ranges in files.items():
        if any(low <= address < high for low, high in ranges):
            return file
    return "unknown"


def read_kmp_blocktime_ms() -> int | None:
    """Milliseconds that idle threads of Intel's OpenMP spin; None under another runtime."""
    try:
        return int(ctypes.CDLL(None).kmp_get_blocktime())
    except AttributeError:
        return None


def read_memory() -> dict[str, int]:
    """Bytes of this process's memory by kind, such as `Rss`, `Pss` and `AnonHugePages`.

    Empty if the kernel keeps no /proc/self/smaps_rollup.
    """
    try:
        lines = (PROC_SELF / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    fields = [line.split() for line in lines]
    return {name.rstrip(":"): int(size) * 1024 for name, size, *_ in fields}


def read_shared_bytes() -> int:
    """Bytes in RAM that count for other processes: RSS less PSS."""
    memory = read_memory()
    return memory.get("Rss", 0) - memory.get("Pss", 0)


def read_allowed_cpus() -> list[int]:
    """The CPUs that any thread of this process may use, except the allocator's own threads.

    Every thread is read, because OpenMP may bind each thread to other CPUs.
    """
    cpus: set[int] = set()
    for task in os.listdir(PROC_SELF / "task"):
        try:
            name = (PROC_SELF / "task" / task / "comm").read_text().strip()
            if name not in ALLOCATOR_THREAD_NAMES:
                cpus |= os.sched_getaffinity(int(task))
        except (ProcessLookupError, FileNotFoundError):  # the thread has just ended
            continue
    return sorted(cpus)


def read_effective(*, torch_threads: bool) -> dict[str, Scalar]:
    """CPUs, allocator, OpenMP runtime and huge pages of this process.

    With `torch_threads`, for engines that use torch's threads, also the number of these threads
    and whether denormals are flushed.
    """
    files = parse_mapped_files((PROC_SELF / "maps").read_text())
    effective: dict[str, Scalar] = {
        "cpus": ",".join(map(str, read_allowed_cpus())),
        "allocator": find_allocator(files),
        "openmp": find_openmp_library(files),
        "omp_wait": os.environ.get("OMP_WAIT_POLICY", "default"),
        "huge_pages": read_memory().get("AnonHugePages", 0) > 0,
    }
    blocktime_ms = read_kmp_blocktime_ms()
    if blocktime_ms is not None:
        effective["kmp_blocktime"] = blocktime_ms
    if torch_threads:
        import torch

        effective["threads"] = torch.get_num_threads()
        effective["interop_threads"] = torch.get_num_interop_threads()
        effective["flush_denormals"] = bool((torch.tensor([1e-40]) * 1.0).item() == 0.0)
    return effective
