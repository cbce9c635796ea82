"""`autotune doctor`: what this host and this interpreter can run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import StackError
from autotune.host import Host, detect
from autotune.records import to_jsonable
from autotune.workload import probe, start_worker


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


def examine() -> dict[str, Any]:
    """Host and stack as JSON. A stack that cannot run is reported, not raised."""
    host = detect()
    with tempfile.TemporaryDirectory(prefix="autotune-") as workdir:
        try:
            with start_worker(host, sys.executable, Path(workdir)) as worker:
                stack: dict[str, Any] = to_jsonable(probe(worker, host))
        except StackError as error:
            stack = {"python": sys.executable, "error": str(error)}
    return {"host": host_facts(host), "stack": stack}


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    host, stack = found["host"], found["stack"]
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
        f"stack   {stack['python']}",
    ]
    if "error" in stack:
        return [*text, f"        cannot run: {stack['error']}"]
    versions = "  ".join(f"{name} {version}" for name, version in stack["versions"].items())
    ipex = stack["ipex"] or "usable, matches torch"
    text += [f"        Python {stack['python_version']}  {versions}", f"        IPEX: {ipex}"]
    text.append("modes")
    for mode, precisions in stack["modes"].items():
        for precision, reason in precisions.items():
            text.append(f"        {mode:9} {precision:13} {'yes' if reason is None else reason}")
    return text
