"""Process settings in real workers: what is asked is in effect, and a lie is a failure."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from engine_bench import HOST, ONE_PASS, Bench, config

from autotune.driver.forkserver import ForkServers
from autotune.host.libraries import REMEDIES

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("process"), rows=3)


@pytest.fixture
def measured(bench, tmp_path):
    """Measure a configuration on this host, or on one that differs in `changes`."""

    def run(changes=None, **knobs):
        runner = bench.runner(tmp_path, replace(HOST, **(changes or {})))
        try:
            return runner.run(config(**knobs), ONE_PASS)
        finally:
            runner.close()

    return run


def need(bench, name):
    intel = bench.stacks["default"].libiomp5
    if (name == "intel" and intel is None) or (name != "intel" and name not in HOST.libraries):
        pytest.skip(REMEDIES[name])
    return intel if name == "intel" else HOST.libraries[name]


@pytest.mark.full
@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc"])
def test_the_allocator_is_mapped(bench, measured, name):
    need(bench, name)
    outcome = measured(allocator=name)
    assert outcome.failure is None, outcome.log
    assert outcome.measurement.effective["allocator"] == name


@pytest.mark.parametrize(
    ("name", "wait"),
    [
        pytest.param("gnu", "default", marks=pytest.mark.full),
        pytest.param("gnu", "active", marks=pytest.mark.full),
        pytest.param("intel", "default", marks=pytest.mark.full),
        ("intel", "active"),
    ],
)
def test_parallel_regions_enter_the_runtime_that_was_preloaded(bench, measured, name, wait):
    path = need(bench, name)
    outcome = measured(openmp=name, omp_wait=wait)
    assert outcome.failure is None, outcome.log
    assert outcome.measurement.effective["openmp"] == path
    assert outcome.measurement.effective["omp_wait"] == wait


@pytest.mark.full
def test_huge_pages_are_there(measured):
    if HOST.huge_pages_refused:
        pytest.skip(HOST.huge_pages_refused)
    outcome = measured(huge_pages=True)
    assert outcome.failure is None, outcome.log
    assert outcome.measurement.effective["huge_pages"]


def test_torch_is_told_of_its_settings(measured):
    outcome = measured(flush_denormals=True, interop_threads=2)
    assert outcome.failure is None, outcome.log
    effective = outcome.measurement.effective
    assert effective["flush_denormals"] is True
    assert effective["interop_threads"] == 2


def test_pinned_threads_are_on_their_cores(measured):
    outcome = measured(threads=1, pinning="compact")
    assert outcome.failure is None, outcome.log
    assert outcome.measurement.effective["cpus"] == str(HOST.allowed[0])


@pytest.mark.full
def test_a_library_that_does_not_load_is_a_fallback(measured, tmp_path):
    bogus = tmp_path / "libjemalloc.so.2"
    bogus.write_text("not a library")
    outcome = measured({"libraries": {"jemalloc": str(bogus)}}, allocator="jemalloc")
    assert outcome.failure.kind == "fallback"
    assert outcome.failure.detail == "asked for allocator jemalloc, in effect is default"


def test_a_runtime_that_does_not_load_is_a_fallback(measured, tmp_path):
    bogus = tmp_path / "libgomp.so.1"
    bogus.write_text("not a library")
    outcome = measured({"libraries": {"gnu": str(bogus)}}, openmp="gnu")
    assert outcome.failure.kind == "fallback"
    assert "asked for openmp" in outcome.failure.detail


def test_a_mask_that_the_kernel_refuses_is_unsupported(measured):
    absent = replace(HOST.cpus[0], number=4095, core=4095)
    outcome = measured({"cpus": (absent,), "allowed": (4095,)}, threads=1, pinning="compact")
    assert outcome.failure.kind == "unsupported"
    assert "the kernel refuses the CPUs 4095" in outcome.failure.detail


@pytest.mark.skipif(HOST.cores < 2, reason="needs two cores")
@pytest.mark.parametrize("pinning", [pytest.param("none", marks=pytest.mark.full), "compact"])
def test_instances_run_side_by_side_and_give_the_same_answers(bench, measured, pinning):
    alone = measured(threads=1)
    both = measured(threads=1, instances=2, pinning=pinning)
    assert both.failure is None, both.log
    effective = both.measurement.effective
    assert effective["instances"] == 2
    assert 0 <= effective["release_spread_s"] < 1  # some milliseconds, unless the host is busy
    assert {p.instance for p in both.measurement.passes} == {0, 1}
    for name, expected in alone.outputs.items():
        np.testing.assert_allclose(both.outputs[name], expected, atol=1e-4)
    if pinning == "compact":
        first, second = effective["cpus"].split()
        assert first != second


@pytest.mark.full
def test_another_interpreter_runs_the_same_worker(bench, tmp_path):
    """A stack is a path: this interpreter under another name, nothing installed for it."""
    found = {"other": replace(bench.stacks["default"], python=sys.executable)}
    runner = bench.runner(tmp_path, HOST, found)
    outcome = runner.run(config(stack="other"), ONE_PASS)
    runner.close()
    assert outcome.failure is None, outcome.log


def test_an_exported_engine_starts_without_torch_the_next_time(bench, tmp_path):
    """Under settings that no fork server has yet; the answers are the same to the last bit."""
    refusal = bench.stacks["default"].refusal(config(mode="openvino"))
    if refusal is not None:
        pytest.skip(refusal)
    with ForkServers(tmp_path / "parents", memory_bytes=2**36) as fork_servers:
        runner = bench.runner(tmp_path, fork_servers=fork_servers)
        try:
            first = runner.run(config(mode="openvino"), ONE_PASS)
            again = runner.run(config(mode="openvino", pinning="compact"), ONE_PASS)
        finally:
            runner.close()
    assert again.failure is None, again.log
    assert first.measurement.effective["openmp"].startswith("/")
    assert again.measurement.effective["openmp"] == "none in the global scope"
    assert again.measurement.outputs_digest == first.measurement.outputs_digest


@pytest.mark.full
def test_background_threads_of_jemalloc_do_not_count_as_unpinned(bench, measured):
    need(bench, "jemalloc")
    outcome = measured(allocator="jemalloc", pinning="compact", threads=1)
    assert outcome.failure is None, outcome.failure
