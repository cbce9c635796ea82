"""The orchestrator stays free of torch, and the worker of the orchestrator."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.driver import forkserver as parents

PACKAGE = Path(__file__).parents[1] / "autotune"
SHARED = (
    "autotune.shared.records",
    "autotune.shared.instructions",
    "autotune.shared.errors",
    "autotune.shared.stats",
    "autotune.shared.padding",
    "autotune.shared.stopping",
)
HEAVY = ["torch", "transformers", "onnxruntime", "openvino", "intel_extension_for_pytorch"]
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
    assert loaded.isdisjoint([*HEAVY, "optuna", "numpy", "pydantic", "rich", "psutil", "yaml"])


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_point_one_way(path):
    inside = path.is_relative_to(PACKAGE / "worker")
    for name in imports(path):
        if inside and name.startswith("autotune") and not name.startswith("autotune.worker"):
            assert name in SHARED, name
        if not inside:
            assert not name.startswith("autotune.worker."), name
            assert name.split(".")[0] not in HEAVY, name
        if name.split(".")[0] == "transformers":
            assert path == PACKAGE / "worker" / "slim.py", name
        if name == "optuna" or name.startswith("optuna."):
            assert path == PACKAGE / "search" / "study.py", name


@pytest.mark.model
def test_a_worker_imports_none_of_what_transformers_needs_for_other_uses():
    from autotune.worker.slim import UNUSED_PACKAGES

    for name in UNUSED_PACKAGES:
        pytest.importorskip(name)
    code = (
        "import importlib, json, sys\n"
        f"for name in {parents.MODULES!r}: importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {UNUSED_PACKAGES!r} if name in sys.modules]))\n"
        f"for name in {UNUSED_PACKAGES!r}: importlib.import_module(name)\n"
    )
    assert json.loads(run(code).stdout) == []
