"""Allocators, OpenMP runtimes and huge pages that a worker can be started with."""

from __future__ import annotations

from pathlib import Path

PATTERNS = {
    "jemalloc": ("libjemalloc.so*",),
    "tcmalloc": ("libtcmalloc_minimal.so*", "libtcmalloc.so*"),
    "gnu": ("libgomp.so*",),
}
"""Name -> patterns of file names. Packages add a version, as in libtcmalloc_minimal.so.4."""

FOLDERS = ("usr/local/lib", "usr/lib/*-linux-gnu*", "usr/lib64", "usr/lib", "lib64", "opt/lib")
"""Where libraries are searched for, below the root folder."""

REMEDIES = {
    "jemalloc": "jemalloc is not installed: apt-get install libjemalloc2",
    "tcmalloc": "tcmalloc is not installed: apt-get install libtcmalloc-minimal4",
    "gnu": "the system's libgomp is not installed: apt-get install libgomp1",
    "intel": "Intel's OpenMP is not in this stack: pip install intel-openmp",
}
"""Name -> what a message says if the library is missing: the reason and the remedy."""

THP = "sys/kernel/mm/transparent_hugepage/enabled"
"""The kernel's switch for transparent huge pages, below the root folder."""


def find_libraries(root: Path = Path("/")) -> dict[str, str]:
    """Name -> real path of each library of PATTERNS that FOLDERS contain."""
    found: dict[str, str] = {}
    for name, patterns in PATTERNS.items():
        for pattern in patterns:
            paths = (
                path
                for folder in FOLDERS
                for path in sorted(root.glob(f"{folder}/{pattern}"))
                if path.is_file() and path.suffix != ".py"  # gdb's scripts are no libraries
            )
            path = next(paths, None)
            if path is not None:
                found.setdefault(name, str(path.resolve()))
    return found


def huge_pages_refused(root: Path = Path("/")) -> str | None:
    """Why a process cannot ask for transparent huge pages, or None if it can."""
    try:
        text = (root / THP).read_text()
    except OSError:
        return "this kernel has no transparent huge pages"
    if "[never]" in text:
        return f"transparent huge pages are switched off in /{THP}"
    return None
