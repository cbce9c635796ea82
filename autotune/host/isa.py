"""Instruction sets that decide which kernels run, from the text of /proc/cpuinfo."""

from __future__ import annotations

# kernel flag -> our name; several flags may stand for one name
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


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """Those of `FLAGS` that every CPU has, in the order above."""
    flags: set[str] | None = None
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            these = set(value.split())
            flags = these if flags is None else flags & these
    found = {name for flag, name in FLAGS.items() if flag in (flags or set())}
    return tuple(name for name in dict.fromkeys(FLAGS.values()) if name in found)
