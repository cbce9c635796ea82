"""Taking a run's folder: the lock comes first, before anything is removed."""

from __future__ import annotations

import pytest
from fakes import trial

from autotune.shared.errors import OutputError, ResumeError
from autotune.store.claim import claim


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def names(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def test_a_search_that_still_encodes_is_not_deleted_by_another(path):
    first = claim(path, resume=False)
    first.folder.workload.mkdir()
    (first.folder.workload / "features.npz").write_bytes(b"x")
    before = names(path)
    with pytest.raises(OutputError, match="another search"):
        claim(path, resume=True)
    assert names(path) == before
    first.journal.close()


def test_what_a_killed_search_left_before_its_manifest_is_emptied(path):
    first = claim(path, resume=False)
    first.folder.workload.mkdir()
    first.journal.close()
    second = claim(path, resume=True)
    assert second.fresh
    assert second.existed
    assert names(path) == [".work", "trials.jsonl"]
    second.journal.close()


def test_trials_without_a_manifest_are_kept(path):
    first = claim(path, resume=False)
    first.journal.append(trial(number=0))
    first.journal.close()
    before = (path / "trials.jsonl").read_bytes()
    with pytest.raises(ResumeError, match="1 trials and no manifest"):
        claim(path, resume=True)
    assert (path / "trials.jsonl").read_bytes() == before


def test_other_files_are_not_touched(path):
    path.mkdir()
    (path / "diary.txt").write_text("dear")
    for resume in (True, False):
        with pytest.raises((ResumeError, OutputError)):
            claim(path, resume=resume)
    assert names(path) == ["diary.txt"]


@pytest.mark.parametrize("existed", [True, False])
def test_giving_up_leaves_what_was_there_before(path, existed):
    if existed:
        path.mkdir()
    claimed = claim(path, resume=False)
    claimed.journal.close()
    claimed.give_up()
    assert path.exists() == existed
    assert not existed or names(path) == []
