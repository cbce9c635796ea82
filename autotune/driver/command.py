"""From a configuration to the commands that run it. Pure: starts nothing.

The runner measures these commands and `emit.launch_script` writes them, so what is measured is what
is emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotune.host import Host
from autotune.host.libraries import REMEDIES
from autotune.shared.errors import TrialFailure
from autotune.shared.records import Config, Scalar

WORKER = Path(__file__).parents[1] / "worker" / "__main__.py"

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)
"""Variables of the caller that a worker sees. All others, OMP_* among them, are dropped."""


OWN_POOL = ("openvino", "onnxruntime")
"""Modes whose threads are not OpenMP's; bound OpenMP threads would hand them one CPU."""

JEMALLOC = "oversize_threshold:1,background_thread:true,metadata_thp:auto"
"""IPEX's launcher's settings."""


BLOCKTIME_MS = {"default": 1, "passive": 0, "active": 2**31 - 1}
"""How long idle threads of Intel's OpenMP spin; its largest number stands for ever."""

TORCH_SETTINGS = ("interop_threads", "flush_denormals")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One worker's command.

    `argv` is without the channels (--requests, --replies, --workdir, --together), which
    differ between a measurement and a script; `variables` are those of the environment that the
    configuration sets, and `expected` what the worker must then find in effect. `instance` is
    the end of `argv` that says which of several workers this is.
    """

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    expected: Mapping[str, Scalar] = field(default_factory=dict)
    instance: tuple[str, ...] = ()

    @property
    def ancestor(self) -> Command | None:
        """The command of a process that could fork this worker; None where only a fresh
        process will do: a preloaded library may have threads, which a fork would lose."""
        if "LD_PRELOAD" in self.variables:
            return None
        argv = self.argv[: len(self.argv) - len(self.instance)]
        return Command(argv=argv, variables=self.variables)


def process_variables(config: Config, host: Host, libiomp5: str | None) -> dict[str, str]:
    """The variables that the process knobs of `config` set, the same for every instance."""
    variables = {
        "OMP_NUM_THREADS": str(config["threads"]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    allocator, openmp = config.get("allocator", "default"), config.get("openmp", "default")
    preload = []
    if allocator != "default":
        if allocator not in host.libraries:
            raise TrialFailure("unsupported", REMEDIES[str(allocator)])
        preload.append(host.libraries[allocator])
    runtime = _runtime(openmp, host, libiomp5)
    if runtime is not None:
        preload.append(runtime)
    if preload:
        variables["LD_PRELOAD"] = ":".join(preload)
    huge = bool(config.get("huge_pages", False))
    if allocator == "jemalloc":
        variables["MALLOC_CONF"] = JEMALLOC + (",thp:always" if huge else "")
    elif allocator == "default" and huge:
        variables["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    wait = config.get("omp_wait", "default")
    if wait != "default":
        variables["OMP_WAIT_POLICY"] = str(wait)
    if openmp == "intel":
        variables["KMP_BLOCKTIME"] = str(BLOCKTIME_MS[str(wait)])
    return variables


def _runtime(openmp: Scalar, host: Host, libiomp5: str | None) -> str | None:
    """The library to preload. Raises TrialFailure `unsupported` where a stack lacks it."""
    if openmp == "default":
        return None
    found = libiomp5 if openmp == "intel" else host.libraries.get(str(openmp))
    if found is None:
        raise TrialFailure("unsupported", REMEDIES[str(openmp)])
    return found


def worker_commands(
    config: Config, host: Host, python: str, libiomp5: str | None = None
) -> tuple[Command, ...]:
    """How to start the workers that run `config`, one an instance.

    `libiomp5` is the real path of the stack's Intel OpenMP. Raises TrialFailure `unsupported`
    for a library that is not there.
    """
    threads, instances = int(config["threads"]), int(config.get("instances", 1))
    pinning = str(config.get("pinning", "none"))
    shared = process_variables(config, host, libiomp5)
    expected: dict[str, Scalar] = {
        "threads": threads,
        "allocator": str(config.get("allocator", "default")),
    }
    openmp, wait = str(config.get("openmp", "default")), str(config.get("omp_wait", "default"))
    expected["omp_wait"] = wait
    runtime = _runtime(openmp, host, libiomp5)
    if runtime is not None:
        expected["openmp"] = runtime
    if openmp == "intel":
        expected["kmp_blocktime"] = BLOCKTIME_MS[wait]
    if config.get("huge_pages", False):
        expected["huge_pages"] = True
    if config.get("mode") not in OWN_POOL:
        expected |= {name: config[name] for name in TORCH_SETTINGS if name in config}
    commands = []
    for index, cpus in enumerate(host.placement(pinning, instances, threads)):
        argv = [python, "-P", str(WORKER)]
        variables = dict(shared)
        own = dict(expected)
        if pinning != "none":
            mask = ",".join(map(str, sorted(cpus)))
            own["cpus"] = mask
            argv += ["--cpus", mask]
            if config.get("mode") not in OWN_POOL:
                variables["OMP_PROC_BIND"] = "close"
                variables["OMP_PLACES"] = ",".join(f"{{{cpu}}}" for cpu in cpus)
        which: tuple[str, ...] = ()
        if instances > 1:
            which = ("--instance", str(index), "--instances", str(instances))
        commands.append(
            Command(argv=(*argv, *which), variables=variables, expected=own, instance=which)
        )
    return tuple(commands)


def environment(
    command: Command, caller: Mapping[str, str], temporary: str | Path
) -> dict[str, str]:
    """The whole environment of the worker: variables of the caller, the folder for temporary
    files, and what the configuration sets. The folder's owner removes it, since a worker may be
    killed at any moment."""
    passed = {name: caller[name] for name in PASSED_ON if name in caller}
    return {**passed, "TMPDIR": str(temporary), **command.variables}
