"""The instruction sets that decide which kernels run, from the text of /proc/cpuinfo."""

from __future__ import annotations

FLAGS = {
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512dq": "avx512dq",
    "avx512_vnni": "avx512_vnni",
    "avx512vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "bf16": "arm_bf16",
    "i8mm": "arm_i8mm",
}
"""Flag in /proc/cpuinfo -> name of the instruction set. Two flags may have the same name."""


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """The names of the instruction sets that every CPU has, in the order of FLAGS."""
    flags: set[str] | None = None
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            own_flags = set(value.split())
            flags = own_flags if flags is None else flags & own_flags
    found = {name for flag, name in FLAGS.items() if flag in (flags or set())}
    return tuple(name for name in dict.fromkeys(FLAGS.values()) if name in found)
