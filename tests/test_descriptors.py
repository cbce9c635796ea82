"""One object says all about an engine, a precision, an option or an objective; nobody names it."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from autotune.commands.evaluate import Flags
from autotune.search.objective import IMPLEMENTATIONS, objective_named
from autotune.shared import options
from autotune.shared.engine import COMMON_KNOBS, EngineDescriptor
from autotune.shared.engines import BASELINE, built_in, engine_named, options_of
from autotune.shared.errors import InputError
from autotune.shared.objectives import OBJECTIVES
from autotune.shared.options import Option
from autotune.shared.precisions import FP32, known_precisions, precision_named
from autotune.space.knobs import KNOBS, names
from autotune.testing.engines import LIMITS

PACKAGE = Path(__file__).parents[1] / "autotune"
ENGINES = built_in()
SHIPPED_PRECISIONS = {one.name for engine in ENGINES.values() for one in engine.precisions}
PRECISIONS_ARE_BUILT_IN = ("shared/precisions.py", "shared/engines/", "worker/engines/")
"""Where the name of a precision may stand: its object, descriptors, and the code that makes it."""
OTHER_MEANINGS = {
    ("commands/spaces.py", "eager"): "transformers' attention",
    ("space/knobs.py", "eager"): "transformers' attention",
    ("worker/encode.py", "eager"): "transformers' attention",
    ("worker/flops.py", "zentorch"): "the namespace of its operators in torch",
    ("worker/flops.py", "fp32"): "the type of a matrix product",
    ("worker/flops.py", "bf16"): "the type of a matrix product",
    ("host/isa.py", "bf16"): "a flag of /proc/cpuinfo on ARM",
}
"""File and word -> what the word means there: no engine and no precision."""


def words():
    """Every string of the package's code: file, line and text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield name, node.lineno, node.value


def own_files(mode):
    """The descriptor of a mode, and the file of its implementation."""
    module = ENGINES[mode].implementation.partition(":")[0]
    place = module.removeprefix("autotune.").replace(".", "/")
    return f"shared/engines/{mode}.py", f"{place}.py"


def test_only_the_files_of_an_engine_name_its_mode():
    found = [
        f"{name}:{line}: {text}"
        for name, line, text in words()
        if text in ENGINES and name not in own_files(text) and (name, text) not in OTHER_MEANINGS
    ]
    assert found == []


def test_only_engines_name_a_precision():
    found = [
        f"{name}:{line}: {text}"
        for name, line, text in words()
        if text in SHIPPED_PRECISIONS
        and not name.startswith(PRECISIONS_ARE_BUILT_IN)
        and (name, text) not in OTHER_MEANINGS
    ]
    assert found == []


def test_every_other_meaning_is_still_there():
    used = {(name, text) for name, _, text in words()}
    assert set(OTHER_MEANINGS) <= used


def test_nobody_asks_for_the_beginning_of_a_name_or_for_a_missing_limit():
    asked = re.compile(
        r"""startswith\(["'](int8|bf16|ipex)|(?<!assert )\w*objective\.limit_s is |"""
        r"""["']mode["']\] == ["']"""
    )
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if asked.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("mode", ENGINES)
def test_a_descriptor_names_a_class_that_is_there(mode):
    descriptor, implementation = own_files(mode)
    assert (PACKAGE / descriptor).is_file()
    tree = ast.parse((PACKAGE / implementation).read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert ENGINES[mode].implementation.partition(":")[2] in classes


def test_the_baseline_is_an_engine_that_runs_its_precision_without_flags():
    assert ENGINES[BASELINE.name] is BASELINE
    assert FP32 in BASELINE.precisions
    assert BASELINE.script_flags == ()
    assert FP32.is_script_default


def test_every_option_that_is_shared_is_taken_and_is_a_knob():
    assert tuple(options_of(ENGINES)) == options.SHARED
    for option in options.SHARED:
        takers = [mode for mode, engine in ENGINES.items() if option in engine.options]
        assert list(KNOBS[option.name].needs["mode"]) == takers
        assert KNOBS[option.name].needs.get("precision", ()) == tuple(
            precision.name for precision in option.precisions
        )


def test_every_flag_of_an_engine_or_precision_is_a_flag_of_the_commands():
    taken = {one.name for one in fields(Flags)}
    flags = [flag for engine in ENGINES.values() for flag in engine.script_flags or ()]
    flags += [flag for one in known_precisions().values() for flag in one.script_flags]
    assert {flag.name for flag in flags} <= taken


def test_the_suite_of_engines_has_limits_for_every_precision():
    assert set(LIMITS) == SHIPPED_PRECISIONS


def test_precisions_are_ranked_by_speed():
    names = list(known_precisions())
    assert names.index("fp32") < names.index("bf16") < names.index("int8_dynamic")
    assert len({one.speed for one in known_precisions().values()}) == len(names)


def test_every_kind_of_objective_has_its_class():
    assert [one.kind for one in IMPLEMENTATIONS] == list(OBJECTIVES)
    for implementation in IMPLEMENTATIONS:
        kind = OBJECTIVES[implementation.kind]
        name = f"{kind.name}-20ms" if kind.takes_limit else kind.name
        objective = objective_named(name)
        assert type(objective) is implementation
        assert objective.name == name
        assert (objective.limit_s is None) == (not kind.takes_limit)


@pytest.mark.parametrize(
    ("look_up", "name", "words"),
    [
        (engine_named, "openvina", "mode must be one of eager, .* did you mean openvino"),
        (engine_named, None, "mode must be one of eager"),
        (precision_named, "bf17", "precision must be one of fp32, .* did you mean bf16"),
        (objective_named, "speed", "--objective must be one of throughput"),
        (objective_named, "server", "pass --max-latency-ms"),
    ],
)
def test_an_unknown_name_is_refused(look_up, name, words):
    with pytest.raises(InputError, match=words):
        look_up(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Fast Run"}, "lower case"),
        ({"implementation": "fastrun"}, "must be MODULE:CLASS"),
        ({"precisions": ()}, "must offer a precision"),
        ({"colour": "red"}, "must be like #1f77b4"),
        ({"precisions": ("fp32",)}, "hold objects of type Precision; got 'fp32'"),
        ({"precisions": FP32}, "precisions of engine fastrun must be a tuple, with a comma"),
        ({"precisions": (FP32, replace(FP32, speed=7))}, "precisions .* are called fp32"),
        ({"options": options.LINEAR}, "options of engine fastrun must be a tuple, with a comma"),
        (
            {"options": (options.LINEAR, replace(options.LINEAR, about=""))},
            "two of the options of engine fastrun are called linear",
        ),
        ({"distributions": "fast"}, "distributions of engine fastrun must be a tuple"),
        ({"script_flags": ["bf16"]}, "script_flags of engine fastrun must be a tuple"),
        ({"preparing_s": "3"}, "must be seconds"),
    ],
)
def test_a_descriptor_that_cannot_be_used_says_the_rule(changes, words):
    good = {"name": "fastrun", "implementation": "fastrun:Engine", "precisions": (FP32,)}
    assert EngineDescriptor(**good).shown == "fastrun"
    with pytest.raises(ValueError, match=words):
        EngineDescriptor(**{**good, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"default": "b"},
        {"allowed": None},
        {"default": 1},
        {"allowed": ["a"]},
        {"allowed": None, "default": 0.5},
        {"precisions": FP32},
        {"precisions": ("fp32",)},
    ],
    ids=["unknown", "free", "int", "list", "float", "no comma", "name"],
)
def test_an_option_has_its_values_and_one_of_them_as_default(changes):
    good = {"name": "level", "about": "", "allowed": ("a",), "default": "a"}
    assert Option(**good).allowed == ("a",)
    with pytest.raises(ValueError, match="option level"):
        Option(**{**good, **changes})


@pytest.mark.parametrize("changes", [{"name": 4}, {"speed": "fast"}, {"tolerance": None}])
def test_a_precision_that_cannot_be_used_says_the_rule(changes):
    with pytest.raises(ValueError, match="must be"):
        replace(FP32, **changes)


def test_the_engine_knobs_are_the_common_ones_and_the_options():
    assert names("engine") == COMMON_KNOBS | {one.name for one in options_of(ENGINES)}
    for engine in ENGINES.values():
        assert engine.knobs <= names("engine")
