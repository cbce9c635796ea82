"""`autotune doctor`: what this host and these interpreters can run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.driver import stacks
from autotune.driver.stacks import missing_settings
from autotune.driver.start import start_worker
from autotune.host import Host, detect
from autotune.search.bounds import peaks
from autotune.shared.errors import StackError
from autotune.shared.records import StackFacts, to_jsonable
from autotune.space.knobs import KNOBS
from autotune.tasks import task_names


def host_facts(host: Host) -> dict[str, Any]:
    """The host as JSON."""
    return {
        "model_name": host.model_name,
        "cores": host.cores,
        "sockets": host.sockets,
        "numa_nodes": host.nodes,
        "threads_per_core": host.threads_per_core,
        "cpus_online": len(host.cpus),
        "cpus_allowed": list(host.allowed),
        "cpu_quota": host.cpu_quota,
        "memory_bytes": host.memory_bytes,
        "memory_limited_by_cgroup": host.memory_limited,
        "instruction_sets": list(host.instruction_sets),
        "kernel": host.kernel,
    }


def examine(named: Sequence[str] = (), peak: bool = False) -> dict[str, Any]:
    """Host, tasks, process settings and stacks as JSON. A stack that cannot run is reported.

    With `peak`, also how fast each of them multiplies matrices, which takes some seconds.
    """
    host = detect()
    found: dict[str, Any] = {}
    usable: dict[str, StackFacts] = {}
    with tempfile.TemporaryDirectory(prefix="autotune-") as workdir:
        for name, python in stacks.parse(named).items():
            try:
                usable |= stacks.examine({name: python}, host, Path(workdir), afresh=True)
                found[name] = to_jsonable(usable[name])
                if peak:
                    work = Path(workdir) / f"peak-{name}"
                    found[name] |= _peak(host, python, usable[name], work)
            except StackError as error:
                found[name] = {"python": python, "error": str(error)}
    return {
        "host": host_facts(host),
        "tasks": list(task_names()),
        "settings": settings(host, usable),
        "stacks": found,
    }


def _peak(host: Host, python: str, facts: StackFacts, work: Path) -> dict[str, Any]:
    try:
        with start_worker(host, python, work) as worker:
            rates = peaks(worker, host, facts, afresh=True)
    except StackError as error:
        return {"peak": [], "peak_error": str(error)}
    return {
        "peak": [
            {"precision": precision, "threads": threads, "operations_per_s": rate}
            for (precision, threads), rate in rates.items()
        ]
    }


def settings(host: Host, usable: Mapping[str, StackFacts]) -> dict[str, dict[str, Any]]:
    """Allocators, OpenMP runtimes and huge pages: `path` (None: built in) or `reason`."""
    missing = missing_settings(host, usable)
    runtime = next((facts.libiomp5 for facts in usable.values() if facts.libiomp5), None)
    paths = {**host.libraries, **({"intel": runtime} if runtime else {})}
    found: dict[str, dict[str, Any]] = {}
    for knob in ("allocator", "openmp"):
        for value in KNOBS[knob].allowed or ():
            reason = missing[knob].get(value)
            found[f"{knob}={value}"] = {"path": paths.get(value), "reason": reason}
    reason = missing.get("huge_pages", {}).get(True)
    found["huge_pages=true"] = {"path": None, "reason": reason}
    return found


def describe(found: Mapping[str, Any]) -> list[str]:
    """The result of `examine` in lines of text."""
    host = found["host"]
    quota = "none" if host["cpu_quota"] is None else f"{host['cpu_quota']:g} CPUs"
    limit = " (cgroup limit)" if host["memory_limited_by_cgroup"] else ""
    allowed = ",".join(map(str, host["cpus_allowed"]))
    text = [
        f"host    {host['model_name']}",
        f"        {host['cores']} usable physical cores, {host['sockets']} sockets, "
        f"{host['numa_nodes']} NUMA nodes, {host['threads_per_core']} threads a core",
        f"        CPUs allowed: {allowed} of {host['cpus_online']}; quota: {quota}",
        f"        memory: {host['memory_bytes'] / 2**30:.1f} GiB{limit}",
        f"        instruction sets: {' '.join(host['instruction_sets']) or 'none that matter'}",
        f"tasks   {', '.join(found['tasks'])}",
        "process settings",
    ]
    for name, setting in found["settings"].items():
        text.append(f"        {name:20} {setting['reason'] or setting['path'] or 'yes'}")
    for name, stack in found["stacks"].items():
        text += _stack_lines(name, stack)
    return text


def _stack_lines(name: str, stack: Mapping[str, Any]) -> list[str]:
    text = [f"stack {name}: {stack['python']}"]
    if "error" in stack:
        return [*text, f"        cannot run: {stack['error']}"]
    versions = "  ".join(f"{name} {version}" for name, version in stack["versions"].items())
    text.append(f"        Python {stack['python_version']}  {versions}")
    for mode, precisions in stack["modes"].items():
        for precision, reason in precisions.items():
            text.append(f"        {mode:11} {precision:13} {'yes' if reason is None else reason}")
    if "peak_error" in stack:
        text.append(f"        {stack['peak_error']}")
    for one in stack.get("peak", ()):
        rate = one["operations_per_s"] / 1e9
        text.append(
            f"        peak        {one['precision']:13} {rate:.0f} billion operations a second "
            f"with {one['threads']} thread{'s' if one['threads'] > 1 else ''}"
        )
    return text
