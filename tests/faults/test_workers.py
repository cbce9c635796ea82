"""Workers that misbehave: a stack whose every configuration has another fault."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOOK = Path(__file__).parent / "autotune_fault.py"
ANSWERS = {
    "exit": ("crash", "exited with code 3"),
    "segfault": ("crash", "SIGSEGV"),
    "killed": ("out-of-memory", "SIGKILL"),
    "hang": ("timeout", "no answer in"),
    "closed": ("crash", "closed its pipes but kept running"),
    "garbage": ("protocol", "expected the reply to"),
    "other": ("protocol", "expected the reply to"),
    "nan": ("inaccurate", "correlation of 0.00"),
    "shape": ("crash", "shape"),
    "wrong": ("inaccurate", ""),
    "flood": (None, ""),
    "child": (None, ""),
}
"""Fault -> the kind of the failure and words of it; None: it is measured, or screened, as ever."""
SPACE = f"""\
version: 1
task: qa
knobs:
  stack: auto
  mode: eager
  padding: longest
  batch_size: {{range: {{low: 1, high: {len(ANSWERS)}}}}}
constraints:
  - name: one_without_a_fault
    forbid: {{stack: default, batch_size: {{min: 2}}}}
"""


def faulty_stack(folder, stub):
    """An environment that imports what this one does, and the hook."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copy(HOOK, packages)
    here = Path(importlib.util.find_spec("numpy").origin).parents[1]
    hook = "" if stub else "import autotune_fault\n"  # the stub looks for the folder by itself
    (packages / "fault.pth").write_text(f"{here}\n{hook}")
    (folder / "faulty").mkdir()
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def searched(searches, tmp_path_factory, stub):
    """A search over every fault and a configuration without any, to its end."""
    search = searches()
    (search.folder / "space.yaml").write_text(SPACE)
    python = faulty_stack(tmp_path_factory.mktemp("stack") / "faulty", stub)
    timeout = "3s" if stub else "25s"
    limits = ("--trials", str(len(ANSWERS) + 2), "--trial-timeout", timeout)
    code, errors = search.ended(search.start("--stack", f"faulty={python}", *limits))
    assert code == 0, errors
    return search


@pytest.mark.parametrize("fault", ANSWERS)
def test_a_worker_that_misbehaves_costs_its_own_trial_only(searched, fault):
    kind, words = ANSWERS[fault]
    (trial,) = [
        trial
        for trial in searched.trials()
        if trial["config"]["stack"] == "faulty"
        and trial["config"]["batch_size"] == 1 + list(ANSWERS).index(fault)
        and trial["origin"] in ("prior", "search")
    ]
    failure = trial["failure"]
    if kind is None:
        assert failure is None or failure["kind"] == "slow"
    else:
        assert failure["kind"] == kind, failure
        assert words in failure["detail"]


def test_what_has_no_fault_is_measured_and_the_report_names_the_failures(searched):
    fine = [trial for trial in searched.trials() if trial["config"]["stack"] == "default"]
    assert {trial["config"]["batch_size"] for trial in fine} == {1, 8}  # 8 is the baseline's
    assert all(t["failure"] is None or t["failure"]["kind"] == "slow" for t in fine)
    page = (searched.run / "report.html").read_text()
    for kind in {kind for kind, _ in ANSWERS.values() if kind}:
        assert f"{kind} (" in page


@pytest.fixture
def too_little(stub):
    """A size that no worker fits into, and how a message shows it in GiB."""
    return ("8m", "0.0") if stub else ("64m", "0.1")


def test_a_worker_that_needs_more_memory_than_it_may_is_ended(searches, too_little):
    search = searches()
    code, errors = search.ended(search.start("--trials", "2", "--max-memory", too_little[0]))
    assert code == 1
    assert "out-of-memory" in errors
    assert f"--max-memory is {too_little[1]} GiB" in errors
