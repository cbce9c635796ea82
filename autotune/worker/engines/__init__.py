"""Engines turn a loaded model into a callable. There is one file for each mode or family of modes.

`autotune.shared.engines` holds their descriptors. Each names the class of its engine as a string,
so that the engine's libraries are imported only when the mode is asked for. docs/extending.md says
how to add an engine.
"""

from __future__ import annotations

import importlib

from autotune.shared.engine import EngineDescriptor, EngineFile
from autotune.shared.engines import built_in, load_file, unknown_engine
from autotune.shared.errors import TrialFailure, describe
from autotune.worker.engines.base import Engine

ENGINES = built_in()
"""The engines of this package, by mode."""


def engine_class(mode: str, file: EngineFile | None = None) -> type[Engine]:
    """The engine class of `mode`, as `find_engine` finds it."""
    return find_engine(mode, file)[1]


def find_engine(mode: str, file: EngineFile | None = None) -> tuple[EngineDescriptor, type[Engine]]:
    """The descriptor and the class of `mode`; those in `file` if another package brings them.

    Raises TrialFailure `unsupported` for an unknown mode, and if `file` cannot be used.
    """
    if file is not None:
        try:
            return _in_file(file)
        except (Exception, SystemExit) as error:
            raise TrialFailure(
                "unsupported",
                f"the engine {mode} of {file.distribution} does not load from {file.file}: "
                f"{describe(error)}",
            ) from error
    if mode not in ENGINES:
        raise TrialFailure("unsupported", unknown_engine(mode, ENGINES))
    place, _, name = ENGINES[mode].implementation.partition(":")
    return ENGINES[mode], _checked(getattr(importlib.import_module(place), name))


def _in_file(file: EngineFile) -> tuple[EngineDescriptor, type[Engine]]:
    descriptor, module = load_file(file)
    return descriptor, _checked(getattr(module, descriptor.implementation.partition(":")[2]))


def _checked(found: object) -> type[Engine]:
    """`found` as the class of an engine. Raises TypeError if it is none."""
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise TypeError(f"{found!r} is no class derived from Engine")
    return found
