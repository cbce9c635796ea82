"""What a search says it will cost, once its baselines are measured."""

from __future__ import annotations

import pytest
from bench_search import Bench
from fakes import FakeRunner

from autotune.search.outlook import CONFIGURATION_S, PASS_SHARE, WANTED


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_search_says_how_many_configurations_fit_and_what_budget_would_do(bench):
    """The baseline's pass takes 10 s, half of it padding."""
    bench.search(FakeRunner(), trials=None, budget=1000, clock=iter(range(100_000)).__next__)
    told = bench.listener.outlook
    assert told.configuration_s == pytest.approx(CONFIGURATION_S + PASS_SHARE * 5.0)
    assert 0 < told.configurations < 1000 / told.configuration_s
    more = (WANTED - told.configurations) * told.configuration_s
    assert told.wanted_budget_s == pytest.approx(1000 + more, abs=told.configuration_s)


def test_without_a_budget_it_says_what_a_configuration_takes(bench):
    bench.search(FakeRunner(), trials=3)
    told = bench.listener.outlook
    assert told.configuration_s > 0
    assert told.configurations is told.wanted_budget_s is None
