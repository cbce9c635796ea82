"""Durations, sizes and names as people write them."""

from __future__ import annotations

import click
import pytest

from autotune.cli.parameters import Duration, Size, TaskName


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90 s", 90),
        ("5min", 300),
        ("5 minutes", 300),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("1.5h", 5400),
        ("2H", 7200),
        ("1h0m5s", 3605),
    ],
)
def test_a_duration_is_read_as_it_is_written(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["5", "1:30", "m", "30m1h", "5 parsecs", "-5s", "0s", "5m5", ""])
def test_a_duration_needs_its_units(text):
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 2**29), ("4g", 2**32), ("4GiB", 2**32), ("1.5g", 3 * 2**29)]
)
def test_a_size_is_read_as_it_is_written(text, size):
    assert Size().convert(text, None, None) == size


def test_numbers_without_a_unit_are_refused_alike():
    for kind, words in ((Duration(), "90s, 10m or 1h30m"), (Size(), "512m or 4g")):
        with pytest.raises(click.BadParameter, match=f"is written {words}.*'4'"):
            kind.convert("4", None, None)


def test_the_shell_completes_tasks_and_their_other_names():
    found = [item.value for item in TaskName().shell_complete(None, None, "se")]
    assert "sentiment-analysis" in found
    assert "sentence-similarity" in found
    assert all(name.startswith("se") for name in found)
    assert [item.value for item in TaskName().shell_complete(None, None, "qa")] == ["qa"]
