from __future__ import annotations

import pytest

from autotune.worker.effective import find_allocator, parse_mapped_files

MAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /usr/lib/libjemalloc.so.2
7f0000002000-7f0000003000 r--p 00000000 08:01 1 /usr/lib/libjemalloc.so.2
7f0000004000-7f0000005000 rw-p 00000000 00:00 0
7f0000006000-7f0000007000 r-xp 00000000 08:01 1 /home/a b/lib c.so
7ffe00000000-7ffe00001000 rw-p 00000000 00:00 0 [stack]
"""


def test_mapped_files_have_their_ranges():
    found = parse_mapped_files(MAPS)
    assert list(found) == ["/usr/lib/libjemalloc.so.2", "/home/a b/lib c.so"]
    assert found["/usr/lib/libjemalloc.so.2"][0] == (0x7F0000000000, 0x7F0000001000)
    assert len(found["/usr/lib/libjemalloc.so.2"]) == 2


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/usr/lib/libjemalloc.so.2", "jemalloc"),
        ("/usr/lib/libtcmalloc_minimal.so.4", "tcmalloc"),
        ("/usr/lib/libc.so.6", "default"),
        ("/models/jemalloc/weights", "default"),
    ],
)
def test_the_allocator_is_the_one_that_is_mapped(file, name):
    assert find_allocator({file: [(0, 1)]}) == name
