"""Disks that fill, folders that go, files that are cut, clocks that step, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

TWO = ("--trials", "2", "--time-budget", "20s")


@pytest.fixture
def small_disk(searches):
    """A search whose folder is a small disk of its own."""
    search = searches()
    search.run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(search.run)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs")
    yield search
    subprocess.run(["umount", "--lazy", str(search.run)], check=False)


def fill(disk):
    """Leave no byte free; the file that takes them."""
    filler = disk / "filler"
    with open(filler, "wb") as file:
        try:
            while True:
                os.write(file.fileno(), b"x" * 4096)
        except OSError:
            return filler


def test_a_disk_that_fills_ends_the_search_with_one_line_and_loses_nothing(small_disk):
    """Again and again: after the first trial, in the finals, while the report is written."""
    search, resume = small_disk, False
    for wait in (
        lambda: search.wait_for_trials(1),
        lambda: search.wait_for_trials(3),
        lambda: search.wait_for((search.run / "best.yaml").exists),
    ):
        before = search.lines()
        process = search.start(*TWO, resume=resume)
        wait()
        filler = fill(search.run)
        code, errors = search.ended(process)
        assert code == 2, errors
        assert errors.count("autotune: ") == 1
        assert "No space left" in errors
        assert search.lines()[: len(before)] == before
        filler.unlink()
        resume = True
    search.go_on()


def test_a_folder_that_is_deleted_ends_the_search_with_one_line(searches):
    search = searches()
    process = search.start(*TWO)
    search.wait_for_trials(1)
    while search.run.exists():  # what is written meanwhile may keep a folder from going
        shutil.rmtree(search.run, ignore_errors=True)
    code, errors = search.ended(process)
    assert code == 2, errors
    assert "cannot be written" in errors


def test_a_last_line_that_is_cut_costs_that_trial_only(searches):
    search = searches()
    code, errors = search.ended(search.start(*TWO))
    assert code == 0, errors
    journal = search.run / "trials.jsonl"
    with open(journal, "r+b") as file:
        file.truncate(journal.stat().st_size - 10)
    search.go_on()


def test_a_second_search_on_the_same_folder_is_refused_and_disturbs_nothing(searches):
    search = searches()
    first = search.start(*TWO)
    search.wait_for_trials(1)
    second = search.start(resume=True)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another search is writing" in errors
    code, errors = search.ended(first)
    assert code == 0, errors


@pytest.mark.parametrize(
    ("sent", "after_s"), [("SIGTERM", 0.7), ("SIGINT", 4.0), ("SIGHUP", 4.0), ("SIGKILL", 4.0)]
)
def test_a_signal_before_there_is_a_trial_leaves_nothing_running(searches, sent, after_s):
    search = searches()
    process = search.start(*TWO)
    time.sleep(after_s / 3 if search.stub else after_s)
    number = getattr(signal, sent)
    process.send_signal(number)
    if sent == "SIGKILL":
        process.communicate(timeout=60)
        for _ in range(50):
            if not search.processes():
                break
            time.sleep(0.1)
        assert not search.processes()
    else:
        code, errors = search.ended(process)
        assert code in (130, -number) or (search.run / "report.json").exists(), errors
    if search.run.exists():  # what was killed too early is begun again
        code, errors = search.ended(search.start(*TWO, "--resume"))
        assert code == 0, errors


def test_a_load_that_begins_in_the_middle_is_said(searches):
    search = searches()
    process = search.start(*TWO)
    search.wait_for_trials(2)
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    try:
        code, errors = search.ended(process)
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert code == 0, errors
    report = json.loads((search.run / "report.json").read_text())
    assert report["noise"]["disturbed"] > 0
    assert not report["noise"]["quiet"]
    assert "The host was not quiet" in (search.run / "report.md").read_text()


def test_a_host_where_nothing_helps_is_told_to_keep_the_baseline(searches):
    search = searches()
    (search.folder / "space.yaml").write_text(
        "version: 1\ntask: qa\nknobs: {mode: eager, padding: max_length, batch_size: [8, 16]}\n"
    )
    code, errors = search.ended(search.start("--time-budget", "20s"))
    assert code == 0, errors
    report = json.loads((search.run / "report.json").read_text())
    assert not report["significant"]
    assert report["verdict"].startswith("No significant gain")
    assert report["best"]["config"] == report["baseline"]["config"]
