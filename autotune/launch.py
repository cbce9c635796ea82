"""From a configuration to the command that runs it. Pure: reads no machine, starts nothing.

The same command is measured by `autotune.runner` and written by `autotune.emit.script`, so
that what was measured is what is emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.host import Host
from autotune.records import Config

WORKER = Path(__file__).parent / "worker" / "__main__.py"

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`argv` without the channels (--requests, --replies, --workdir), which differ between a
    measurement and a script; `settings` are the variables the configuration sets."""

    argv: tuple[str, ...]
    settings: Mapping[str, str]


def worker_command(config: Config, host: Host, python: str) -> Command:
    """How to start the worker that runs `config`."""
    threads = int(config["threads"])
    argv = [python, "-P", str(WORKER)]
    if config.get("pinning", "none") == "compact":
        argv += ["--cpus", ",".join(map(str, host.compact(threads)))]
    return Command(
        argv=tuple(argv),
        settings={
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
    )


def environment(command: Command, caller: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the worker: what is passed on, then the settings."""
    passed = {name: caller[name] for name in PASSED_ON if name in caller}
    return {**passed, **command.settings}
