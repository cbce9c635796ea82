from __future__ import annotations

import subprocess
import sys

import pytest
from fakes import host

from autotune.driver import stacks
from autotune.shared.errors import InputError, StackError
from autotune.shared.records import StackFacts


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "autotune" / "stacks"


def finished(cache, name):
    python = cache / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (cache / name / stacks.COMPLETE_MARKER).write_text("torch\n")
    return str(python)


def test_the_stack_that_runs_autotune_is_always_included(cache):
    assert stacks.parse([]) == {"default": sys.executable}


def test_a_stack_is_a_named_path_or_a_created_stack(cache):
    made = finished(cache, "new")
    folder = cache / "new"
    assert stacks.parse([f"a={sys.executable}", "new", f"b={folder}"]) == {
        "default": sys.executable,
        "a": sys.executable,
        "new": made,
        "b": made,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a b=/x"], "NAME=PYTHON"),
        (["../x=/x"], "NAME=PYTHON"),
        (["=/x"], "NAME=PYTHON"),
        (["x=/no/such/python"], "/no/such/python is not a Python interpreter"),
        (["x"], "no such stack; created stacks: none"),
        ([f"default={sys.executable}"], "that name is taken"),
        ([f"a={sys.executable}", f"a={sys.executable}"], "that name is taken"),
    ],
)
def test_invalid_stacks_are_refused(cache, arguments, message):
    with pytest.raises(InputError, match=message):
        stacks.parse(arguments)


def facts(**changes):
    modes = {"eager": {"fp32": None, "int8_static": None}, "ipex": {"int8_static": "no AVX2"}}
    base = {"python": "p", "python_version": "3.11", "versions": {"torch": "2.8.0"}, "ipex": "not"}
    return StackFacts(**{**base, "modes": modes, **changes})


def test_a_named_stack_whose_ipex_does_not_match_is_refused(tmp_path, monkeypatch):
    versions = {"torch": "2.13.0", "intel-extension-for-pytorch": "2.8.0"}
    wrong = facts(versions=versions, ipex="intel-extension-for-pytorch 2.8.0 needs torch 2.8.x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stacks, "ask_for_probe", lambda *_: None)
    monkeypatch.setattr(stacks, "probed", lambda *_: wrong)
    with pytest.raises(StackError, match=r"--stack other: .* needs torch 2\.8\.x"):
        stacks.examine({"other": sys.executable}, host(), tmp_path)
    assert stacks.examine({"default": sys.executable}, host(), tmp_path) == {"default": wrong}


def test_a_precision_can_be_ruled_out_with_its_reason():
    found = stacks.without_calibration(facts(), "no rows")
    assert found.modes["eager"] == {"fp32": None, "int8_static": "no rows"}
    assert found.modes["ipex"] == {"int8_static": "no AVX2"}


def test_a_missing_setting_comes_with_its_remedy():
    missing = stacks.missing_settings(host(), {"default": facts()})
    assert "apt-get install libjemalloc2" in missing["allocator"]["jemalloc"]
    assert "pip install intel-openmp" in missing["openmp"]["intel"]
    assert stacks.missing_settings(host(), {"default": facts(libiomp5="/x")})["openmp"].keys() == {
        "gnu"
    }


def test_requirements_come_from_the_metadata_of_autotune():
    found = stacks.requirements(["torch", "openvino"])
    assert any(line.startswith("torch") for line in found)
    assert any(line.startswith("nncf") for line in found)
    assert not any(line.startswith(("pytest", "optuna")) for line in found)
    for extras in (["warp"], []):
        with pytest.raises(InputError, match="--extra must be one of ipex"):
            stacks.requirements(extras)


class Steps:
    """A stand-in for `subprocess.run` whose step number `fails` fails."""

    def __init__(self, place, fails=None):
        self.place, self.fails, self.ran = place, fails, []

    def __call__(self, argv, **_):
        self.ran.append(argv)
        (self.place / "bin").mkdir(parents=True, exist_ok=True)
        failed = len(self.ran) - 1 == self.fails
        words = "note\nERROR: No matching distribution found for torch\n" if failed else ""
        return subprocess.CompletedProcess(argv, int(failed), "", words)


def test_creating_a_stack_installs_its_extras_but_not_autotune(cache, monkeypatch):
    steps = Steps(cache / "new")
    monkeypatch.setattr(subprocess, "run", steps)
    python = stacks.create("new", ["openvino"], announce=lambda words: None)
    venv, install = steps.ran
    assert venv[1:] == ["-m", "venv", str(cache / "new")]
    assert install[0] == python == str(cache / "new" / "bin" / "python")
    assert {word.split(">")[0] for word in install if ">" in word} == {"openvino", "nncf"}
    assert stacks.created() == {"new": python}
    with pytest.raises(InputError, match="stack new exists"):
        stacks.create("new", ["torch"], announce=lambda words: None)


@pytest.mark.parametrize("step", [0, 1])
def test_a_stack_that_cannot_be_created_leaves_no_files(cache, monkeypatch, step):
    monkeypatch.setattr(subprocess, "run", Steps(cache / "new", fails=step))
    with pytest.raises(StackError, match="ERROR: No matching distribution found for torch"):
        stacks.create("new", ["torch"], announce=lambda words: None)
    assert not (cache / "new").exists()
    assert stacks.created() == {}
