"""The registry of engines. Each file of this folder holds the descriptor of one engine, `ENGINE`.

A new file here is found without being named anywhere. Other packages register the descriptors of
their engines under the entry point group GROUP. docs/extending.md says how to add an engine.

`known_engines` and `engine_named` are for the orchestrator: they read entry points. A worker knows
the engines of this folder (`built_in`), and loads the file of another one (`load_file`) by path.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

from autotune.shared import options, precisions
from autotune.shared.engine import EngineDescriptor, EngineFile
from autotune.shared.engines import eager
from autotune.shared.errors import InputError, describe
from autotune.shared.options import Option
from autotune.shared.plugins import Plugin, load_plugins, warn
from autotune.shared.words import suggestion

GROUP = "autotune.engines"
BASELINE: EngineDescriptor = eager.ENGINE
"""The engine of the baseline."""


def built_in() -> dict[str, EngineDescriptor]:
    """The engines of this folder by name: the baseline's, then the others by name."""
    found = {BASELINE.name: BASELINE}
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        engine: EngineDescriptor = importlib.import_module(f"{__name__}.{module}").ENGINE
        found[engine.name] = engine
    return found


@functools.cache
def known_engines() -> Mapping[str, EngineDescriptor]:
    """All engines by name: those of this folder, then those of other packages.

    An engine of another package that cannot be used is left out, with a warning.
    """
    found = built_in()
    for plugin in load_plugins(GROUP):
        try:
            found[plugin.name] = _checked(plugin, found)
        except ValueError as error:
            warn(GROUP, plugin.name, plugin.distribution, str(error))
        except Exception as error:  # a mistake that no rule foresees
            warn(GROUP, plugin.name, plugin.distribution, describe(error))
    return found


def _checked(plugin: Plugin, known: Mapping[str, EngineDescriptor]) -> EngineDescriptor:
    """The descriptor of `plugin`, with its file. Raises ValueError or another error if it
    cannot be used; its precisions are not known then."""
    engine = plugin.value
    if not isinstance(engine, EngineDescriptor):
        raise ValueError(f"it must be an EngineDescriptor, got {type(engine).__name__}")
    if engine.name != plugin.name:
        raise ValueError(f"the entry point must have the engine's name, which is {engine.name}")
    if engine.name in known:
        raise ValueError("an engine of autotune has this name; choose another")
    taken = {one.name: one for one in options_of(known)}
    for option in engine.options:
        if taken.get(option.name, option) != option:
            raise ValueError(f"another option is called {option.name}; choose another name")
    usable = replace(
        engine,
        file=EngineFile(
            name=engine.name,
            file=plugin.file,
            attribute=plugin.attribute,
            precisions=engine.precision_names,
            distribution=plugin.distribution,
        ),
    )
    hash(usable)  # TypeError for a list or a dict in the place of a tuple
    precisions.add(usable.precisions)
    return usable


def engine_files() -> list[EngineFile]:
    """The files of all engines of other packages."""
    return [engine.file for engine in known_engines().values() if engine.file is not None]


def engine_named(name: object) -> EngineDescriptor:
    """The engine called `name`. Raises InputError for an unknown name."""
    known = known_engines()
    if name not in known:
        raise InputError(unknown_engine(name, known))
    return known[str(name)]


def unknown_engine(name: object, known: Mapping[str, EngineDescriptor]) -> str:
    """The message that refuses the name of an engine."""
    return f"mode must be one of {', '.join(known)}; got {name}{suggestion(str(name), known)}"


def options_of(engines: Mapping[str, EngineDescriptor]) -> list[Option]:
    """The options that these engines take, each once, in the order of their knobs."""
    taken = dict.fromkeys(option for engine in engines.values() for option in engine.options)
    shared = [option for option in options.SHARED if option in taken]
    return [*dict.fromkeys([*shared, *taken])]


def load_file(source: EngineFile) -> tuple[EngineDescriptor, ModuleType]:
    """Run the file of an engine of another package. Returns its descriptor and the module.

    The file is run by its path, so the package need not be installed for this interpreter. Raises
    whatever the file raises, FileNotFoundError if it is gone, and TypeError or AttributeError if
    it holds no such descriptor.
    """
    name = f"autotune_engine_{source.name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, source.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    module = sys.modules[name]
    engine: object = module
    for part in source.attribute.split("."):
        engine = getattr(engine, part)
    if not isinstance(engine, EngineDescriptor):
        raise TypeError(f"{source.attribute} of {source.file} is no EngineDescriptor")
    precisions.add(engine.precisions)
    return engine, module
