"""Scores equal those of the libraries that define them (`against_libraries.py`)."""

from __future__ import annotations

import warnings

import pytest
from against_libraries import comparisons

pytestmark = [pytest.mark.model, pytest.mark.full]  # imports transformers, and takes a minute


@pytest.mark.parametrize(("name", "compare"), [*comparisons()], ids=lambda value: str(value)[:40])
def test_there_is_no_difference(name, compare):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert compare() == 0
