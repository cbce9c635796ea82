"""The series of a version: what decides whether two packages fit together."""

from __future__ import annotations

import pytest

from autotune.worker.versions import series


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.8.0", "2.8"),
        ("2.8.0+cpu", "2.8"),
        ("2.13.1", "2.13"),
        ("2.9.0.dev20250901+cpu", "2.9"),
        ("2.8.0a0+git1234", "2.8"),
        ("2", "2.0"),
    ],
)
def test_a_series_is_the_major_and_minor_number(version, expected):
    assert str(series(version)) == expected


def test_series_are_ordered_as_numbers():
    assert series("2.8.1+cpu") == series("2.8.0")
    assert series("2.9.1") < series("2.10.0")
