"""Small inputs that once failed end as they must (`shared_cases.py`). They are in ../shared."""

from __future__ import annotations

import pytest
from shared_cases import CASES, ENDS, end_of

pytestmark = [
    pytest.mark.model,
    pytest.mark.full,
    pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared"),
]


@pytest.mark.parametrize("name", ENDS)
def test_a_case_ends_as_it_must(name):
    end_of(name)
