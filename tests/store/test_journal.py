from __future__ import annotations

import pytest
from fakes import trial

from autotune.shared.errors import OutputError, ResumeError
from autotune.store.journal import Journal, read_trials


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trials.jsonl"


def filled(path, count=3):
    journal = Journal(path)
    for number in range(count):
        journal.append(trial(number=number))
    journal.close()
    return path


def test_trials_are_there_again_after_reopening(path):
    journal = Journal(filled(path))
    assert [t.number for t in journal.trials] == [0, 1, 2]
    journal.append(trial(number=3))
    journal.close()
    assert [t.number for t in read_trials(path)] == [0, 1, 2, 3]


def test_any_cut_of_the_last_line_loses_that_line_only(path):
    whole = filled(path).read_bytes()
    second = whole.find(b"\n", whole.find(b"\n") + 1) + 1
    for cut in (second + 1, second + 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert [t.number for t in journal.trials] == [0, 1]
        journal.append(trial(number=9))
        journal.close()
        assert [t.number for t in read_trials(path)] == [0, 1, 9]


def test_damage_inside_is_an_error_with_the_line(path):
    lines = filled(path).read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[2])
    with pytest.raises(ResumeError, match="line 2 is damaged"):
        Journal(path)


def test_two_searches_cannot_write_one_journal(path):
    first = Journal(path)
    with pytest.raises(OutputError, match="another search"):
        Journal(path)
    first.close()
    Journal(path).close()
