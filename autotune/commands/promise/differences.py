"""What has changed since a run: differences of the host and of the stack's versions.

Nothing is measured; `score` and `verify` measure.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from autotune.host import Host
from autotune.shared.errors import StackError

TIMEOUT_S = 60.0
VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def differences(best: Mapping[str, Any], host: Host, versions: Mapping[str, str]) -> list[str]:
    """One line for each difference. `best` is best.yaml; `versions` are the stack's now."""
    now = host.fingerprint()
    lines = [
        f"host {name}: {before} then, {now.get(name)} now"
        for name, before in best["host"].items()
        if now.get(name) != before
    ]
    return lines + [
        f"{name}: {before} then, {versions.get(name, 'missing')} now"
        for name, before in best["stack"].items()
        if name != "python" and versions.get(name) != before
    ]


def installed(best: Mapping[str, Any]) -> dict[str, str]:
    """The current versions of the packages in `best`, read without importing them.

    Raises StackError if the interpreter of `best` does not run.
    """
    python = str(best["stack"]["python"])
    names = [name for name in best["stack"] if name != "python"]
    try:
        done = subprocess.run(
            [python, "-I", "-c", VERSIONS, *names],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise StackError(
            f"{python}, which this configuration runs on, does not run: {error}; "
            "tune again on this machine"
        ) from error
    return found
