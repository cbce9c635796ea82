"""What is known about an engine without running it: its descriptor.

The orchestrator decides, draws and writes by the descriptor alone. The worker finds by it the class
that runs the model. A descriptor therefore needs neither torch nor the engine's own library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotune.shared.declared import check_distinct, check_tuple
from autotune.shared.flags import ScriptFlag
from autotune.shared.options import Option
from autotune.shared.precisions import Precision

NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
COMMON_KNOBS = frozenset({"mode", "precision", "attention"})
"""The engine knobs that every engine has. The others are options."""
NO_SCRIPT = "the script only runs torch's own engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """Where a worker finds an engine of another package, which its interpreter may not have.

    The worker runs the file at the path `file` and takes the descriptor `attribute` from it.
    `precisions` are the names that the descriptor offers, for a report of a file that fails.
    `distribution` is the installed package that brings the engine.
    """

    name: str
    file: str
    attribute: str
    precisions: tuple[str, ...]
    distribution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDescriptor:
    """A value of the knob `mode`, and all that other modules need to know about it.

    - `implementation` is "module:Class", a subclass of `autotune.worker.engines.base.Engine`. Only
      a worker imports it. An engine of another package has its class in the descriptor's own file.
    - `distributions` are the packages whose versions `Engine.unsupported` may ask about, besides
      torch's and transformers'. Records of a run name their versions.
    - `extra` is the name under which `autotune stack create --extra` installs what it needs.
    - `script_flags` are the flags of Hugging Face's example scripts that together select the
      engine. None: no flags do, and `without_script` says so.
    """

    name: str
    implementation: str
    precisions: tuple[Precision, ...]
    options: tuple[Option, ...] = ()
    label: str | None = None  # in pictures; None: the name
    colour: str | None = None  # in pictures, legible on white and on black; None: of a palette
    distributions: tuple[str, ...] = ()
    extra: str | None = None
    own_threads: bool = False  # it has threads of its own, not OpenMP's and torch's pool
    exports: bool = False  # it runs a file of its own, and needs no torch once the file is written
    preparing_s: float | None = None  # expected seconds to prepare it; None: as for most engines
    script_flags: tuple[ScriptFlag, ...] | None = None
    without_script: str = NO_SCRIPT
    optimum_backend: str = "pytorch"  # its name in optimum-benchmark
    optimum_package: str = "torch"  # the package whose version is the backend's
    file: EngineFile | None = None  # set by the registry for an engine of another package

    def __post_init__(self) -> None:
        """Raises ValueError, with the rule, for a value that cannot be used."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"an engine's name is lower case, digits and _; got {self.name!r}")
        if not all(self.implementation.partition(":")):
            raise ValueError(
                f"the implementation of {self.name} must be MODULE:CLASS, got "
                f"{self.implementation!r}"
            )
        owner = f"engine {self.name}"
        check_tuple(owner, "precisions", self.precisions, Precision)
        check_tuple(owner, "options", self.options, Option)
        check_tuple(owner, "distributions", self.distributions, str)
        if self.script_flags is not None:
            check_tuple(owner, "script_flags", self.script_flags, ScriptFlag)
        check_distinct(owner, "precisions", self.precision_names)
        check_distinct(owner, "options", (one.name for one in self.options))
        if not self.precisions:
            raise ValueError(f"engine {self.name} must offer a precision")
        if self.preparing_s is not None and type(self.preparing_s) not in (int, float):
            raise ValueError(f"preparing_s of {owner} must be seconds, got {self.preparing_s!r}")
        if self.colour is not None and not COLOUR.fullmatch(self.colour):
            raise ValueError(f"the colour of {self.name} must be like #1f77b4, got {self.colour!r}")

    @property
    def knobs(self) -> frozenset[str]:
        """The knobs that decide how the engine is prepared: those of all engines, and its own."""
        return COMMON_KNOBS | {one.name for one in self.options}

    @property
    def precision_names(self) -> tuple[str, ...]:
        """The names of its precisions."""
        return tuple(one.name for one in self.precisions)

    @property
    def shown(self) -> str:
        """Its name in pictures."""
        return self.label or self.name
