"""Requests of a load test."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search.serving import answered, poisson
from autotune.shared.records import ServedRequests


def test_arrivals_are_a_poisson_process():
    arrivals = poisson(50, 100, np.random.default_rng(0))
    gaps = np.diff(arrivals)
    assert len(arrivals) == 5000
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.1)


def test_percentiles_are_nearest_ranks_with_an_interval():
    found = answered(
        10.0,
        ServedRequests(latency_s=tuple(n / 1000 for n in range(1, 101)), batches=(1,) * 100),
    )
    assert (found.p50_s, found.p90_s, found.p99_s) == (0.050, 0.090, 0.099)
    assert found.p99_low_s <= found.p99_s <= found.p99_high_s == 0.1
    assert found.p99_coverage < 0.95  # 100 requests are few for a p99
