"""Turn a configuration into the commands that start its workers. Nothing is started here.

The runner measures these commands and `emit.launch_script` writes them to launch.sh. The script
therefore runs exactly the commands that were measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotune.host import Host
from autotune.host.libraries import REMEDIES
from autotune.shared.engines import engine_named
from autotune.shared.errors import TrialFailure
from autotune.shared.paths import home_folder
from autotune.shared.records import Config, Scalar
from autotune.space.knobs import KNOBS

WORKER = Path(__file__).parents[1] / "worker" / "__main__.py"

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
INHERITED_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "HUGGINGFACE_HUB_CACHE",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSFORMERS_CACHE",
    "TRANSFORMERS_OFFLINE",
    *PROXIES,
    *(name.lower() for name in PROXIES),
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
INHERITED_PREFIX = "HF_"
"""Environment variables that a worker inherits from its caller: these, and all with the prefix. All
others are dropped, for example OMP_NUM_THREADS."""


JEMALLOC_CONF = "oversize_threshold:1,background_thread:true,metadata_thp:auto"
"""The settings that the launcher of IPEX uses."""


BLOCKTIME_MS = {"default": 1, "passive": 0, "active": 2**31 - 1}
"""Milliseconds that idle threads of Intel's OpenMP spin, by the knob `omp_wait`. The largest
number means for ever."""

TORCH_PROCESS_KNOBS = tuple(
    name for name, knob in KNOBS.items() if knob.set_by_worker and knob.variable is None
)
"""Process knobs of torch alone. A worker must find them in effect only if torch runs the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The command of one worker.

    `argv` lacks the flags --requests, --replies, --workdir and --together, which differ between a
    measurement and a script. `variables` are the environment variables that the configuration
    sets. `expected` are the settings that the worker must then find in effect. `instance` is the
    end of `argv` that numbers the worker among several instances.
    """

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    expected: Mapping[str, Scalar] = field(default_factory=dict)
    instance: tuple[str, ...] = ()

    @property
    def fork_server_command(self) -> Command | None:
        """The command of a fork server for this worker, or None if the worker must be fresh.

        A worker with a preloaded library must be fresh: the library may have threads, and a fork
        would lose them.
        """
        if "LD_PRELOAD" in self.variables:
            return None
        argv = self.argv[: len(self.argv) - len(self.instance)]
        return Command(argv=argv, variables=self.variables)


def process_variables(config: Config, host: Host, libiomp5: str | None) -> dict[str, str]:
    """The environment variables that the process knobs of `config` set for every instance.

    Raises TrialFailure `unsupported` if a library is not installed.
    """
    variables = {
        **knob_variables(config),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    allocator, openmp = config.get("allocator", "default"), config.get("openmp", "default")
    preload = []
    if allocator != "default":
        if allocator not in host.libraries:
            raise TrialFailure("unsupported", REMEDIES[str(allocator)])
        preload.append(host.libraries[allocator])
    runtime = _openmp_library(openmp, host, libiomp5)
    if runtime is not None:
        preload.append(runtime)
    if preload:
        variables["LD_PRELOAD"] = ":".join(preload)
    huge = bool(config.get("huge_pages", False))
    if allocator == "jemalloc":
        variables["MALLOC_CONF"] = JEMALLOC_CONF + (",thp:always" if huge else "")
    elif allocator == "default" and huge:
        variables["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    wait = config.get("omp_wait", "default")
    if openmp == "intel":
        variables["KMP_BLOCKTIME"] = str(BLOCKTIME_MS[str(wait)])
    return variables


def knob_variables(config: Config) -> dict[str, str]:
    """The environment variables that have the value of one knob each."""
    return {
        knob.variable: str(config[name])
        for name, knob in KNOBS.items()
        if knob.variable is not None and config.get(name, "default") != "default"
    }


def _has_own_threads(config: Config) -> bool:
    """Whether the engine has threads of its own. Binding OpenMP's threads would leave it one CPU.

    False for a worker without an engine.
    """
    return "mode" in config and engine_named(config["mode"]).own_threads


def _openmp_library(openmp: Scalar, host: Host, libiomp5: str | None) -> str | None:
    """The path of the OpenMP library to preload; None for the default one.

    Raises TrialFailure `unsupported` if the library is not installed.
    """
    if openmp == "default":
        return None
    path = libiomp5 if openmp == "intel" else host.libraries.get(str(openmp))
    if path is None:
        raise TrialFailure("unsupported", REMEDIES[str(openmp)])
    return path


def worker_commands(
    config: Config, host: Host, python: str, libiomp5: str | None = None
) -> tuple[Command, ...]:
    """The commands of the workers that run `config`, one for each instance.

    `libiomp5` is the real path of the stack's Intel OpenMP library. Raises TrialFailure
    `unsupported` if a library is not installed.
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
    runtime = _openmp_library(openmp, host, libiomp5)
    if runtime is not None:
        expected["openmp"] = runtime
    if openmp == "intel":
        expected["kmp_blocktime"] = BLOCKTIME_MS[wait]
    if config.get("huge_pages", False):
        expected["huge_pages"] = True
    own_threads = _has_own_threads(config)
    if not own_threads:
        expected |= {name: config[name] for name in TORCH_PROCESS_KNOBS if name in config}
    commands = []
    for index, cpus in enumerate(host.placement(pinning, instances, threads)):
        argv = [python, "-P", str(WORKER)]
        variables = dict(shared)
        expected_here = dict(expected)
        if pinning != "none":
            if len(cpus) < threads:
                raise TrialFailure(
                    "unsupported",
                    f"{instances} x {threads} threads with pinning need as many cores, "
                    f"this process may use {host.cores}",
                )
            mask = ",".join(map(str, sorted(cpus)))
            expected_here["cpus"] = mask
            argv += ["--cpus", mask]
            if not own_threads:
                variables["OMP_PROC_BIND"] = "close"
                variables["OMP_PLACES"] = ",".join(f"{{{cpu}}}" for cpu in cpus)
        instance: tuple[str, ...] = ()
        if instances > 1:
            instance = ("--instance", str(index), "--instances", str(instances))
        commands.append(
            Command(
                argv=(*argv, *instance),
                variables=variables,
                expected=expected_here,
                instance=instance,
            )
        )
    return tuple(commands)


def environment(
    command: Command, caller: Mapping[str, str], temporary: str | Path
) -> dict[str, str]:
    """The whole environment of a worker.

    It holds the variables inherited from `caller`, TMPDIR, and the variables that the
    configuration sets. Whoever made the folder `temporary` also removes it, because a worker may
    be killed at any moment.

    Libraries ask for the home folder and the name of the user. A user id without an entry, as in
    some containers, gets `temporary` and its number.
    """
    inherited = {
        name: value
        for name, value in caller.items()
        if name in INHERITED_VARIABLES or name.startswith(INHERITED_PREFIX)
    }
    if not caller.get("HOME") and home_folder() is None:
        inherited["HOME"] = str(temporary)
    if not caller.get("LOGNAME") and not caller.get("USER"):
        inherited["USER"] = str(os.getuid())
    return {**inherited, "TMPDIR": str(temporary), **command.variables}
