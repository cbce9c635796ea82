from __future__ import annotations

import pytest

from autotune.store import cache


def test_the_cache_is_where_xdg_cache_home_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "autotune"


@pytest.mark.parametrize("value", ["", None])
def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache.folder() == tmp_path / ".cache" / "autotune"


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("old")
    cache.write(blocked / "entry.json", "new")
    assert blocked.read_text() == "old"
    assert list(tmp_path.iterdir()) == [blocked]


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch):
    def refused(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", refused)
    place = cache.folder() / "entry.json"
    cache.write(place, "new")
    assert not place.exists()
    assert cache.NOWHERE in place.parents
