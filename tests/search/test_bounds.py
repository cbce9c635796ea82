"""The peak rate of a host, and the configurations that it rules out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bench_search import Bench
from engine_bench import HOST, SOURCE
from fakes import FakeRunner, host, surroundings

from autotune.driver.channel import WorkerFailed
from autotune.driver.start import start_worker
from autotune.search.bounds import PEAK_SEARCHES, Bounds, peaks
from autotune.shared.errors import StackError
from autotune.shared.records import Failure
from autotune.space import complete
from autotune.store import cache

LENGTHS = np.array([3, 5, 2])
WORK = (10.0, 4.0, 1.0)
KNOWN = Bounds(
    polynomial=WORK,
    peaks={("fp32", 2): 100.0, ("bf16", 2): 200.0},
    lengths=LENGTHS,
    max_seq_length=8,
)


def config(**knobs):
    return complete(surroundings(), {"threads": 2, "batch_size": 2, "padding": "longest", **knobs})


def test_work_counts_the_padding():
    width5 = 10 + 4 * 5 + 25
    width2 = 10 + 4 * 2 + 4
    assert KNOWN.work(config()) == (2 * width5, width2)
    width8 = 10 + 4 * 8 + 64
    assert KNOWN.work(config(padding="max_length")) == (2 * width8, width8)


def test_time_at_the_peak_of_the_precision():
    fp32, bf16 = (KNOWN.batch_s(config(precision=p)) for p in ("fp32", "bf16"))
    assert fp32 == pytest.approx([2 * b for b in bf16])
    assert sum(fp32) == pytest.approx(sum(KNOWN.work(config())) / 100)


def test_threads_without_a_peak_have_that_of_the_next_higher_number():
    known = replace(KNOWN, peaks={("fp32", 2): 100.0, ("fp32", 8): 300.0, ("fp32", 16): 500.0})
    work = sum(known.work(config()))
    for threads, peak in ((1, 100.0), (2, 100.0), (3, 300.0), (8, 300.0), (12, 500.0)):
        assert sum(known.batch_s(config(threads=threads))) == pytest.approx(work / peak)


@pytest.mark.parametrize("knobs", [{"precision": "int8_dynamic"}, {"threads": 4}])
def test_without_a_measured_peak_there_is_no_bound(knobs):
    assert KNOWN.batch_s(config(**knobs)) is None


def test_a_configuration_that_cannot_win_is_not_run(tmp_path):
    """The bounds of fp32 are its true times, bf16 has none: fp32 is run less often."""
    runner = FakeRunner()
    slow = SimpleNamespace(
        batch_s=lambda c: (runner.seconds(c),) if c["precision"] == "fp32" else None
    )
    found = Bench(tmp_path).search(runner, trials=40, bounds=slow)
    fp32 = [c for c in runner.ran[1:] if c["precision"] == "fp32"]
    free = FakeRunner()
    (tmp_path / "free").mkdir()
    same = Bench(tmp_path / "free").search(free, trials=40)
    assert found.best.config["precision"] == same.best.config["precision"] == "bf16"
    assert len(fp32) < len([c for c in free.ran[1:] if c["precision"] == "fp32"])


class Answering:
    def __init__(self, rate=5e9):
        self.rate, self.requests = rate, []

    def request(self, op, arguments, *, timeout_s):
        self.requests.append(arguments)
        if self.rate is None:
            raise WorkerFailed(Failure(kind="crash", detail="no oneDNN"))
        return dict.fromkeys(arguments["precisions"], self.rate * arguments["threads"])


FACTS = SimpleNamespace(versions={"torch": "2.8.0"})


def test_peaks_are_measured_for_each_number_of_threads_and_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    worker = Answering()
    found = peaks(worker, host(3), FACTS)
    assert found == {
        ("fp32", 1): 5e9, ("fp32", 2): 1e10, ("fp32", 3): 1.5e10,
        ("bf16", 1): 5e9, ("bf16", 2): 1e10, ("bf16", 3): 1.5e10,
    }  # fmt: skip
    assert len(worker.requests) == 3
    for _ in range(PEAK_SEARCHES):
        assert peaks(worker, host(3), FACTS) == found
    assert len(worker.requests) == 3 * PEAK_SEARCHES
    peaks(worker, host(2), FACTS)
    peaks(worker, host(3), FACTS, afresh=True)
    assert len(worker.requests) == 3 * PEAK_SEARCHES + 2 + 3


def test_the_highest_peak_counts(tmp_path, monkeypatch):
    """A search on a busy host must not lower the peak, or it would rule out too much."""
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    found = [peaks(Answering(rate), host(1), FACTS)["fp32", 1] for rate in (5e9, 7e9, 6e9, 8e9)]
    assert found == [5e9, 7e9, 7e9, 7e9]
    assert peaks(Answering(8e9), host(1), FACTS, afresh=True)["fp32", 1] == 8e9
    assert peaks(Answering(1e9), host(1), FACTS, afresh=True)["fp32", 1] == 8e9


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        '{"1": 5}',
        '{"1": {"fp32": 1}}',
        '{"occasions": 3, "highest": {"1": 5}}',
        '{"occasions": 3, "highest": {"1": {"fp32": -1}}}',
        '{"occasions": "x", "highest": {"1": {"fp32": 1}}}',
    ],
)
def test_a_damaged_cache_is_measured_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    found = peaks(Answering(), host(1), FACTS)
    (place,) = (tmp_path / "peaks").iterdir()
    place.write_text(damage)
    assert peaks(Answering(), host(1), FACTS) == found
    assert json.loads(place.read_text())


def test_a_peak_that_cannot_be_measured_is_an_error_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    with pytest.raises(StackError, match="no oneDNN"):
        peaks(Answering(None), host(1), FACTS)


def test_the_work_of_the_embedded_model_is_counted_exactly(tmp_path):
    """Six layers of 384: what the projections and the attention of its config multiply."""
    with start_worker(HOST, sys.executable, tmp_path) as worker:
        rows = tmp_path / "rows.json"
        rows.write_text(json.dumps({"text": ["who?"], "text_pair": ["me."]}))
        facts = worker.request(
            "encode",
            {
                "source": {"path": SOURCE.path, "head": SOURCE.head, "outputs": SOURCE.outputs},
                "sets": [{"rows_file": str(rows), "folder": str(tmp_path)}],
                "max_seq_length": 128,
                "doc_stride": 32,
                "words": False,
            },
            timeout_s=300,
        )
        rate = worker.request("peak", {"threads": 1, "precisions": ["fp32"]}, timeout_s=300)
    layers, hidden, inner = 6, 384, 1536
    a = layers * 2 * (4 * hidden * hidden + 2 * hidden * inner) + 2 * 2 * hidden
    b = layers * 2 * 2 * hidden
    c, per_token, per_pair = facts["work"]
    assert (per_token, per_pair) == pytest.approx((a, b), rel=1e-6)
    assert abs(c) < 1e-3 * a
    assert 1e9 < rate["fp32"] < 1e13


def test_eager_float32_cannot_be_faster_than_its_rows_at_the_peak():
    c, a, b = WORK
    assert KNOWN.eager_s() == pytest.approx(sum(c + a * n + b * n * n for n in LENGTHS) / 100.0)
