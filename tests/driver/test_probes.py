from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import pytest
from fakes import host

from autotune.driver import probes, stacks
from autotune.shared.records import StackFacts

FACTS = StackFacts(
    python="p",
    python_version="3.11",
    versions={"torch": "2.8.0"},
    ipex="not installed",
    modes={"eager": {"fp32": None, "bf16": "no AVX512-BF16"}},
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def interpreter(tmp_path):
    """A Python that also imports from a folder of its own."""
    (tmp_path / "site").mkdir()
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH={tmp_path}/site\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_remembered_probe_is_recalled(cache):
    assert probes.recall("a" * 64) is None
    probes.remember("a" * 64, FACTS)
    assert probes.recall("a" * 64) == FACTS


def test_a_damaged_cache_file_is_ignored(cache):
    probes.remember("a" * 64, FACTS)
    (cache / "autotune" / "probes" / ("a" * 64 + ".json")).write_text('{"python": 1}')
    assert probes.recall("a" * 64) is None


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    probes.remember("a" * 64, FACTS)
    assert probes.recall("a" * 64) is None


def test_the_key_changes_with_everything_a_probe_depends_on(interpreter, tmp_path, monkeypatch):
    here = host()
    first = probes.key(interpreter, here)
    assert first == probes.key(interpreter, here)
    assert first != probes.key(sys.executable, here)
    assert first != probes.key(interpreter, replace(here, instruction_sets=("avx2",)))
    later = time.time() + 10
    (tmp_path / "site" / "torch-9.0.dist-info").mkdir()
    os.utime(tmp_path / "site", (later, later))
    installed = probes.key(interpreter, here)
    assert installed != first
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/opt/compilers")
    assert probes.key(interpreter, here) != installed


def test_an_interpreter_that_does_not_run_has_no_key(tmp_path):
    assert probes.key(str(tmp_path / "nothing"), host()) is None
    assert probes.key("/bin/false", host()) is None


def test_a_stack_is_probed_once_and_again_when_asked(monkeypatch, tmp_path):
    probed = []
    monkeypatch.setattr(stacks, "ask_for_probe", lambda *_: None)
    monkeypatch.setattr(stacks, "probed", lambda *_: probed.append(1) or FACTS)
    for afresh in (False, False, True):
        found = stacks.examine({"default": sys.executable}, host(), tmp_path, afresh=afresh)
        assert found == {"default": FACTS}
    assert len(probed) == 2
