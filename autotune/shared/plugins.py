"""Parts of other packages, which register under an entry point group.

The orchestrator alone reads entry points. A worker gets the file of what it needs with its
request, because its interpreter may lack the package.
"""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Any

from autotune.shared.errors import describe, shorten

HEAVY = "torch"
"""The package that the orchestrator must never import."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What an entry point stands for. `value` is the object, found in the file `file`."""

    name: str
    value: Any
    file: str
    attribute: str
    distribution: str  # the installed package that brings it


def load_plugins(group: str) -> list[Plugin]:
    """What other packages register under `group`, in the order of their names.

    An entry point that cannot be loaded is left out, with a warning (`warn`).
    """
    found: dict[str, Plugin] = {}
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda one: one.name):
        distribution = point.dist.name if point.dist is not None else "an unknown package"
        if point.name in found:
            if found[point.name].distribution != distribution:
                warn(group, point.name, distribution, "another package registers this name too")
            continue
        clean = HEAVY not in sys.modules
        try:
            value = point.load()
            file = sys.modules[point.module].__file__
        except (Exception, SystemExit) as error:
            warn(group, point.name, distribution, describe(error))
            continue
        if file is None:
            warn(group, point.name, distribution, f"{point.module} is no file")
            continue
        if clean and HEAVY in sys.modules:
            words = f"it imports {HEAVY} when it is loaded; import {HEAVY} inside its methods"
            warn(group, point.name, distribution, words)
        found[point.name] = Plugin(
            name=point.name,
            value=value,
            file=file,
            attribute=point.attr,
            distribution=distribution,
        )
    return list(found.values())


def warn(group: str, name: str, distribution: str, reason: str) -> None:
    """Say on one line, on standard error, what is wrong with the entry point `name`."""
    import logging  # not needed unless something is wrong

    logging.getLogger("autotune").warning(
        "autotune: warning: %s %s of %s: %s", group, name, distribution, shorten(reason)
    )
