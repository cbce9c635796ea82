from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import STUB, command_line
from hypothesis import settings
from small_model import make_small_model

from autotune import demo

# No deadline: the machine may be busy. The same examples every time: a failure is a change's.
settings.register_profile("autotune", deadline=None, derandomize=True)
settings.load_profile("autotune")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items):
    have_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    have_ipex = have_torch and importlib.util.find_spec("intel_extension_for_pytorch")
    for item in items:
        if item.get_closest_marker("model") and not have_torch:
            item.add_marker(pytest.mark.skip(reason="needs torch and transformers"))
        if item.get_closest_marker("ipex") and not have_ipex:
            item.add_marker(pytest.mark.skip(reason="needs intel-extension-for-pytorch"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Tests neither begin with what the user's searches found, nor leave anything there."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def autotune(tmp_path):
    """The command line in an empty folder: autotune("search", ...) -> CompletedProcess."""
    return command_line(tmp_path)


@pytest.fixture
def stubbed(tmp_path):
    """As `autotune`, but its workers are stubs (`tests/stub`), which need no torch."""
    return command_line(tmp_path, stub=True)


@dataclass(frozen=True)
class Finished:
    """A search that has ended: the model it was of, the folder it left, what it printed."""

    model: Path
    run: Path
    output: str

    @property
    def report(self):
        return json.loads((self.run / "report.json").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A search for a model whose path is hostile; whoever uses it leaves it as it was."""
    folder = tmp_path_factory.mktemp("finished")
    model = folder / 'it\'s a "$(touch owned)" model'
    make_small_model(model)
    done = command_line(folder)(
        *("search", "--model", model, "--dataset", demo.DATASET, "--max-samples", "12"),
        *("--set", "mode=eager", "--set", "precision=fp32,bf16", "--set", "threads=1"),
        *("--trials", "3", "--time-budget", "2m", "--max-accuracy-drop", "50%"),
        "--accept-degenerate",
        *("--save-engine", "--output", "run"),
    )
    assert done.returncode == 0, done.stderr
    return Finished(model, folder / "run", done.stdout)


@pytest.fixture(scope="session")
def finished_run(finished):
    """The folder of `finished`."""
    return finished.run


@pytest.fixture(scope="session")
def stub_run(tmp_path_factory):
    """The folder of a finished search on the stub worker; whoever uses it leaves it as it was."""
    folder = tmp_path_factory.mktemp("stub_run")
    done = command_line(folder, stub=True)(
        *("search", "--model", "demo", "--dataset", STUB / "questions.json", "--max-samples", "4"),
        *("--set", "mode=jit", "--set", "threads=1", "--trials", "2", "--output", "run"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="session")
def shared():
    """The development models and data, where they are."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED
