"""The orchestrator stays free of torch, and the worker of the orchestrator."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.driver import forkserver

PACKAGE = Path(__file__).parents[1] / "autotune"
HEAVY = [
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "intel_extension_for_pytorch",
    "zentorch",
]
WHOLE_SEARCH = """
import json, sys, tempfile, pathlib
sys.path.insert(0, {tests!r})
import autotune.cli, autotune.commands.search.tune, autotune.commands.doctor
from bench_search import Bench
from fakes import FakeRunner
Bench(pathlib.Path(tempfile.mkdtemp())).search(FakeRunner(), trials=25)
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
HELP = """
import json, sys
from autotune.cli import cli
try:
    cli(["--help"])
except SystemExit:
    print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )


def test_a_whole_search_imports_no_torch():
    code = WHOLE_SEARCH.format(tests=str(Path(__file__).parent), heavy=HEAVY)
    assert json.loads(run(code).stdout) == []


def test_help_imports_nothing_slow():
    loaded = set(json.loads(run(HELP).stderr))
    assert loaded.isdisjoint(
        [*HEAVY, "optuna", "numpy", "pydantic", "rich", "psutil", "yaml", "scipy"]
    )


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def importers(of, *, inside=PACKAGE):
    """The files below `inside` that import a module that `of` accepts."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in inside.rglob("*.py")
        if any(map(of, imports(path)))
    }


def one_of(*packages):
    return lambda name: any(name == one or name.startswith(f"{one}.") for one in packages)


def test_the_worker_imports_nothing_of_the_orchestrator():
    foreign = one_of("autotune")
    allowed = one_of("autotune.shared", "autotune.worker")
    assert not importers(
        lambda name: foreign(name) and not allowed(name), inside=PACKAGE / "worker"
    )


def test_nothing_outside_the_worker_imports_it_or_what_it_runs_on():
    heavy = importers(one_of("autotune.worker", *HEAVY))
    assert heavy
    assert all(path.startswith("worker/") for path in heavy)


def test_what_is_slow_to_import_is_imported_in_few_places():
    assert importers(one_of("scipy")) == {"search/surrogate.py", "search/tuner.py"}
    of_optuna = {f"search/{name}.py" for name in ("sampler", "samplers", "study", "told")}
    assert importers(one_of("optuna")) == of_optuna
    assert importers(one_of("transformers")) == {"worker/slim.py"}


@pytest.mark.model
def test_a_worker_imports_none_of_what_transformers_needs_for_other_uses():
    from autotune.worker.slim import UNUSED_PACKAGES

    for name in UNUSED_PACKAGES:
        pytest.importorskip(name)
    code = (
        "import importlib, json, sys\n"
        f"for name in {forkserver.IMPORTS_WITH_TORCH!r}: importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {UNUSED_PACKAGES!r} if name in sys.modules]))\n"
        f"for name in {UNUSED_PACKAGES!r}: importlib.import_module(name)\n"
    )
    assert json.loads(run(code).stdout) == []
