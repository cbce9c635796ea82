"""Requests of a load test."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search.serving import poisson


def test_arrivals_are_a_poisson_process():
    arrivals = poisson(50, 100, np.random.default_rng(0))
    gaps = np.diff(arrivals)
    assert len(arrivals) == 5000
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.1)
