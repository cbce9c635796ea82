"""What is really in effect in this process, whatever its environment asked for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from autotune.shared.records import Scalar

PROC = Path("/proc/self")
BACKGROUND = ("jemalloc_bg_thd",)


def mapped_files(maps: str) -> dict[str, list[tuple[int, int]]]:
    """File -> address ranges, from the text of /proc/self/maps."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in maps.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].startswith("/"):
            low, high = (int(part, 16) for part in parts[0].split("-"))
            found.setdefault(parts[5], []).append((low, high))
    return found


def allocator(files: dict[str, list[tuple[int, int]]]) -> str:
    """`jemalloc` or `tcmalloc` where one is mapped, else `default`."""
    names = [os.path.basename(file) for file in files]
    for name in ("jemalloc", "tcmalloc"):
        if any(found.startswith(f"lib{name}") for found in names):
            return name
    return "default"


def openmp(files: dict[str, list[tuple[int, int]]]) -> str:
    """The file whose GOMP_parallel, the entry of every parallel region, comes first."""
    try:
        entry = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        return "none in the global scope"
    address = ctypes.cast(entry, ctypes.c_void_p).value or 0
    for file, ranges in files.items():
        if any(low <= address < high for low, high in ranges):
            return file
    return "unknown"


def kmp_blocktime() -> int | None:
    """Milliseconds that idle threads of Intel's OpenMP spin; None under another runtime."""
    try:
        return int(ctypes.CDLL(None).kmp_get_blocktime())
    except AttributeError:
        return None


def huge_bytes() -> int:
    """Anonymous memory of this process that is in transparent huge pages."""
    for line in (PROC / "smaps_rollup").read_text().splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return 0


def allowed_cpus() -> list[int]:
    """The CPUs that any thread of this process may use; OpenMP binds threads one by one.

    jemalloc's background threads choose their CPU themselves and compute nothing.
    """
    cpus: set[int] = set()
    for task in os.listdir(PROC / "task"):
        try:
            if (PROC / "task" / task / "comm").read_text().strip() not in BACKGROUND:
                cpus |= os.sched_getaffinity(int(task))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return sorted(cpus)


def in_effect(*, torch_threads: bool) -> dict[str, Scalar]:
    """CPUs, allocator, OpenMP runtime and, for engines on torch's pool, its threads."""
    files = mapped_files((PROC / "maps").read_text())
    found: dict[str, Scalar] = {
        "cpus": ",".join(map(str, allowed_cpus())),
        "allocator": allocator(files),
        "openmp": openmp(files),
        "omp_wait": os.environ.get("OMP_WAIT_POLICY", "default"),
        "huge_pages": huge_bytes() > 0,
    }
    blocktime = kmp_blocktime()
    if blocktime is not None:
        found["kmp_blocktime"] = blocktime
    if torch_threads:
        import torch

        found["threads"] = torch.get_num_threads()
        found["interop_threads"] = torch.get_num_interop_threads()
        found["flush_denormals"] = bool((torch.tensor([1e-40]) * 1.0).item() == 0.0)
    return found
