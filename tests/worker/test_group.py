"""Instances that synchronise: real threads, real files."""

from __future__ import annotations

import threading
import time

import pytest

from autotune.worker.group import Group


def test_instances_are_released_together(tmp_path):
    released, arrived = {}, {}

    def run(index):
        time.sleep(0.05 * index)
        arrived[index] = time.monotonic()
        released[index] = Group(folder=str(tmp_path), index=index, count=3).wait("warm-1")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert set(released) == {0, 1, 2}
    assert min(released.values()) >= max(arrived.values())


def test_nobody_is_done_before_all_are(tmp_path):
    first, second = (Group(folder=str(tmp_path), index=i, count=2) for i in range(2))
    first.arrive("done-1")
    assert not first.all_arrived("done-1")
    second.arrive("done-1")
    assert first.all_arrived("done-1")
    assert not first.all_arrived("done-2")


@pytest.mark.parametrize("votes", [(True, True), (True, False), (False, False)])
def test_instances_agree_only_if_all_vote_yes(tmp_path, votes):
    found = {}

    def run(index):
        found[index] = Group(folder=str(tmp_path), index=index, count=2).all_agree(
            "s", votes[index]
        )

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == dict.fromkeys(range(2), all(votes))


def test_a_single_instance_does_not_wait():
    alone = Group()
    assert alone.all_agree("s", True)
    assert not alone.all_agree("s", False)
    alone.arrive("warm-1")
    assert alone.all_arrived("done-1")
    assert alone.wait("warm-1") <= time.monotonic()


def test_several_instances_need_a_folder():
    with pytest.raises(ValueError, match="folder through which to synchronise"):
        Group(count=2)
