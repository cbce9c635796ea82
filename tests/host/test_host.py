from __future__ import annotations

from pathlib import Path

import pytest

from autotune.host import detect
from autotune.host.isa import instruction_sets
from autotune.host.libraries import THP, find_libraries, huge_pages_refused
from autotune.host.limits import cgroup_limits
from autotune.host.topology import parse_cpulist
from autotune.space import Surroundings
from autotune.space.knobs import KNOBS

FLAGS = "fpu avx2 avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16 amx_tile"


def cpuinfo(*cpus, flags=FLAGS):
    """(number, socket, core) triples as the kernel prints them."""
    return "\n".join(
        f"processor\t: {number}\nmodel name\t: Test CPU @ 2GHz\nphysical id\t: {socket}\n"
        f"core id\t\t: {core}\nflags\t\t: {flags}\n"
        for number, socket, core in cpus
    )


TWO_SOCKETS_SMT = cpuinfo(
    *((n, n % 8 // 4, n % 4) for n in range(8)), *((n + 8, n % 8 // 4, n % 4) for n in range(8))
)


@pytest.fixture
def root(tmp_path):
    def write(files):
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def sysfs(sockets, cores, *, smt=2, nodes=1):
    """The files of a machine of `sockets` sockets with `cores` cores and `nodes` NUMA nodes each.

    The first siblings of all cores come first, as the kernel numbers CPUs of x86 servers.
    """
    total, files = sockets * cores, {}
    for core in range(total):
        siblings = [core + total * sibling for sibling in range(smt)]
        for number in siblings:
            folder = f"/sys/devices/system/cpu/cpu{number}/topology"
            files[f"{folder}/physical_package_id"] = f"{core // cores}\n"
            files[f"{folder}/core_id"] = f"{core % cores}\n"
            files[f"{folder}/core_cpus_list"] = ",".join(map(str, siblings)) + "\n"
    size = cores // nodes
    for node in range(sockets * nodes):
        first = [node * size + total * sibling for sibling in range(smt)]
        held = ",".join(f"{low}-{low + size - 1}" for low in first)
        files[f"/sys/devices/system/node/node{node}/cpulist"] = held + "\n"
    return files


MACHINES = [(1, 2), (1, 6), (1, 12), (1, 24), (1, 56), (2, 28), (2, 64)]


@pytest.mark.parametrize(("sockets", "cores"), MACHINES)
def test_topology_comes_from_sysfs(root, sockets, cores):
    total = sockets * cores
    host = detect(root(sysfs(sockets, cores)), frozenset(range(2 * total)))
    assert (host.cores, host.sockets, host.nodes) == (total, sockets, sockets)
    assert host.threads_per_core == 2
    one_a_socket = [tuple(range(s * cores, (s + 1) * cores)) for s in range(sockets)]
    assert host.placement("compact", sockets, cores) == one_a_socket


@pytest.mark.parametrize(
    ("sockets", "cores", "nodes", "instances", "threads", "expected"),
    [
        (2, 28, 1, 3, 18, [0, 1, None]),  # two nodes have room for one each, the third straddles
        (2, 28, 1, 4, 9, [0, 0, 0, 1]),
        (2, 64, 1, 2, 40, [0, 1]),
        (2, 28, 2, 4, 14, [0, 1, 2, 3]),
        (2, 28, 2, 2, 28, [None, None]),
    ],
)
def test_compact_instances_stay_on_a_node_with_room(
    root, sockets, cores, nodes, instances, threads, expected
):
    total = sockets * cores
    host = detect(root(sysfs(sockets, cores, nodes=nodes)), frozenset(range(2 * total)))
    placed = host.placement("compact", instances, threads)
    size = cores // nodes
    found = [{cpu % total // size for cpu in cpus} for cpus in placed]
    assert [next(iter(on)) if len(on) == 1 else None for on in found] == expected
    assert all(len(cpus) == threads for cpus in placed)
    assert len({cpu % total for cpus in placed for cpu in cpus}) == instances * threads


def test_an_instance_of_two_nodes_stays_on_one_socket(root):
    host = detect(root(sysfs(2, 28, nodes=2)), frozenset(range(112)))
    assert host.placement("compact", 2, 20) == [tuple(range(20)), tuple(range(28, 48))]


def test_cores_of_an_lxcfs_container_are_those_of_the_kernel(root):
    """cpuinfo numbers the container's CPUs from 0; to the kernel they are 4, 5, 20 and 21."""
    files = {**sysfs(2, 8), "/proc/cpuinfo": cpuinfo(*((n, 1, n % 2) for n in range(4)))}
    host = detect(root(files), frozenset({4, 5, 20, 21}))
    assert [cpu.number for cpu in host.usable] == [4, 5, 20, 21]
    assert (host.cores, host.sockets, host.nodes) == (2, 1, 1)
    assert host.placement("compact", 1, 2) == [(4, 5)]
    assert host.instruction_sets


@pytest.mark.parametrize("mask", [{4, 5, 6, 7}, {2, 3, 8, 9}, {0, 1, 2, 3}])
def test_without_sysfs_every_allowed_cpu_is_usable(root, mask):
    listed = cpuinfo(*((n, 0, n) for n in range(4)))
    host = detect(root({"/proc/cpuinfo": listed}), frozenset(mask))
    assert {cpu.number for cpu in host.usable} == mask
    assert (host.cores, host.sockets) == (4, 1)
    assert host.placement("compact", 2, 2) == [tuple(sorted(mask))[:2], tuple(sorted(mask))[2:]]


def test_an_offline_cpu_and_a_package_of_unknown_number(root):
    files = sysfs(1, 4, smt=1)
    del files["/sys/devices/system/cpu/cpu3/topology/core_cpus_list"]
    files["/sys/devices/system/cpu/cpu0/topology/physical_package_id"] = "-1\n"
    host = detect(root(files), frozenset({0, 1, 2}))
    assert (len(host.cpus), host.cores, host.sockets) == (3, 3, 1)


def test_core_ids_that_repeat_in_a_socket_do_not_make_siblings(root):
    files = sysfs(1, 4, smt=1) | {
        f"/sys/devices/system/cpu/cpu{n}/topology/core_id": "0\n" for n in range(4)
    }
    assert detect(root(files), frozenset(range(4))).cores == 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/proc/self/cgroup", "garbage\n"),
        ("/sys/fs/cgroup/cpu.max", "50000 0\n"),
        ("/sys/fs/cgroup/cpu.max", "-1 100000\n"),
        ("/sys/fs/cgroup/cpu.max", "many 100000\n"),
        ("/sys/fs/cgroup/memory.max", "-1\n"),
        ("/sys/devices/system/node/node0/cpulist", "x-y\n"),
        ("/sys/devices/system/node/node0x/cpulist", "0-3\n"),
    ],
)
def test_a_file_that_is_not_as_the_kernel_writes_it_limits_nothing(root, name, text):
    files = {
        "/proc/cpuinfo": cpuinfo(*((n, 0, n) for n in range(4))),
        "/proc/self/cgroup": "0::/\n",
    }
    host = detect(root({**files, name: text}), frozenset(range(4)))
    assert (host.cores, host.nodes, host.cpu_quota, host.memory_limited) == (4, 1, None, False)


@pytest.mark.parametrize(
    ("ids", "cores"),
    [
        ("core id\t\t: \n", 4),  # an empty id
        ("core id\t\t: -1\nphysical id\t: -1\n", 4),
        ("core id\t\t: 0\nsiblings\t: 4\ncpu cores\t: 4\n", 4),  # one id for all
        ("core id\t\t: 0\nsiblings\t: 4\ncpu cores\t: 1\n", 1),  # four threads a core
    ],
)
def test_core_ids_that_say_nothing(root, ids, cores):
    listed = "\n".join(f"processor\t: {n}\n{ids}" for n in range(4))
    assert detect(root({"/proc/cpuinfo": listed}), frozenset(range(4))).cores == cores


def test_smt_siblings_count_as_one_core(root):
    host = detect(root({"/proc/cpuinfo": TWO_SOCKETS_SMT}), frozenset(range(16)))
    assert (host.cores, host.sockets, host.threads_per_core) == (8, 2, 2)


def test_affinity_to_both_siblings_of_a_core_is_one_core(root):
    host = detect(root({"/proc/cpuinfo": TWO_SOCKETS_SMT}), frozenset({0, 8}))
    assert (host.cores, host.sockets) == (1, 1)


def test_placement_takes_one_cpu_a_core_on_one_socket_first(root):
    host = detect(root({"/proc/cpuinfo": TWO_SOCKETS_SMT}), frozenset(range(16)))
    assert host.placement("compact", 1, 4) == [(0, 1, 2, 3)]
    assert host.placement("compact", 2, 2) == [(0, 1), (2, 3)]
    assert host.placement("compact", 1, 5) == [(0, 1, 2, 3, 4)]
    assert host.placement("none", 2, 1) == [tuple(range(16))] * 2


def test_spread_takes_cores_of_the_nodes_in_turn(root):
    files = {
        "/proc/cpuinfo": TWO_SOCKETS_SMT,
        "/sys/devices/system/node/node0/cpulist": "0-3,8-11",
        "/sys/devices/system/node/node1/cpulist": "4-7,12-15",
    }
    host = detect(root(files), frozenset(range(16)))
    assert host.nodes == 2
    assert host.placement("spread", 1, 4) == [(0, 4, 1, 5)]
    assert host.placement("spread", 2, 2) == [(0, 4), (1, 5)]
    assert host.placement("compact", 2, 4) == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_libraries_are_found_under_the_names_that_distributions_give_them(root):
    where = "/usr/lib/x86_64-linux-gnu"
    files = {f"{where}/libtcmalloc_minimal.so.4": "", f"{where}/libjemalloc.so.2": ""}
    found = find_libraries(root(files))
    assert {name: Path(path).name for name, path in found.items()} == {
        "jemalloc": "libjemalloc.so.2",
        "tcmalloc": "libtcmalloc_minimal.so.4",
    }


@pytest.mark.parametrize(
    ("text", "refused"), [("always [madvise] never", False), ("always madvise [never]", True)]
)
def test_huge_pages_follow_the_kernels_switch(root, text, refused):
    assert (huge_pages_refused(root({f"/{THP}": text})) is not None) == refused


def test_without_the_switch_there_are_no_huge_pages(root):
    assert "no transparent huge pages" in huge_pages_refused(root({}))


@pytest.mark.parametrize(("quota", "cores"), [("150000", 1), ("50000", 1), ("400000", 4)])
def test_quota_caps_the_cores(root, quota, cores):
    host = detect(
        root(
            {
                "/proc/cpuinfo": TWO_SOCKETS_SMT,
                "/proc/self/cgroup": "0::/box\n",
                "/sys/fs/cgroup/box/cpu.max": f"{quota} 100000\n",
            }
        ),
        frozenset(range(16)),
    )
    assert host.cores == cores


def test_machine_without_topology_counts_each_allowed_cpu(root):
    host = detect(root({"/proc/cpuinfo": "processor : 0\nBogoMIPS : 50\n"}), frozenset({0}))
    assert host.cores == 1


def test_an_empty_machine_still_has_one_core(root):
    assert detect(root({}), frozenset({0})).cores == 1


def test_numa_nodes_come_from_sysfs(root):
    host = detect(
        root(
            {
                "/proc/cpuinfo": cpuinfo(*((n, 0, n) for n in range(4))),
                "/sys/devices/system/node/node0/cpulist": "0-1\n",
                "/sys/devices/system/node/node1/cpulist": "2-3\n",
            }
        ),
        frozenset(range(4)),
    )
    assert host.nodes == 2


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", [0, 1, 2, 3, 8]), ("5\n", [5]), ("", []), ("0,2-3", [0, 2, 3])],
)
def test_cpulist(text, numbers):
    assert parse_cpulist(text) == numbers


def test_instruction_sets_are_those_every_cpu_has():
    mixed = cpuinfo((0, 0, 0)) + "\n" + cpuinfo((1, 0, 1), flags="fpu avx2")
    assert instruction_sets(mixed) == ("avx2",)
    assert "avx512_bf16" in instruction_sets(cpuinfo((0, 0, 0)))
    assert instruction_sets("") == ()


def reader(files):
    return files.get


def test_v2_limits_are_searched_on_every_level():
    limits = cgroup_limits(
        reader(
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "/sys/fs/cgroup/a/b/memory.max": "max",
                "/sys/fs/cgroup/a/cpu.max": "250000 100000",
                "/sys/fs/cgroup/a/memory.max": "1073741824",
            }
        )
    )
    assert (limits.cpus, limits.memory_bytes) == (2.5, 2**30)


def test_v1_limits_are_read_where_the_controllers_are_mounted():
    limits = cgroup_limits(
        reader(
            {
                "/proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648",
            }
        )
    )
    assert (limits.cpus, limits.memory_bytes) == (2.0, 2**31)


def test_container_path_that_does_not_exist_falls_back_to_the_mount():
    limits = cgroup_limits(
        reader(
            {
                "/proc/self/cgroup": "0::/../../docker/abc\n",
                "/sys/fs/cgroup/cpu.max": "100000 100000",
            }
        )
    )
    assert limits.cpus == 1.0


def test_no_limits():
    assert cgroup_limits(reader({})).cpus is None
    v1 = {
        "/proc/self/cgroup": "1:cpu:/\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    }
    assert cgroup_limits(reader(v1)).cpus is None


def test_a_quota_of_one_core_offers_one_thread(root):
    files = {
        "/proc/cpuinfo": TWO_SOCKETS_SMT,
        "/proc/self/cgroup": "0::/user/job\n",
        "/sys/fs/cgroup/user/cpu.max": "100000 100000\n",
    }
    host = detect(root(files), frozenset(range(16)))
    where = Surroundings(cores=host.cores, attentions=("sdpa",), modes={}, objective="throughput")
    assert KNOBS["threads"].auto(where) == [1]
    assert KNOBS["instances"].auto(where) == [1]


@pytest.mark.parametrize(
    ("name", "cpus", "cores", "quota", "memory_gib"),
    [
        ("arm", 4, 4, None, None),  # no ids of cores
        ("cgj", 4, 4, None, None),  # a cgroup file that is garbage
        ("gap", {0, 1, 6, 7}, 4, None, None),
        ("hyb", 8, 3, 3.0, None),  # v1 controllers beside a unified tree: 300 ms in 100 ms
        ("lxcfs-partial", 4, 4, None, None),
        ("lxcfs-renumbered", {4, 5, 20, 21}, 4, None, None),  # the file numbers them 0 to 3
        ("memonly", 4, 4, None, None),  # the second node holds memory alone
        ("negc", 2, 2, None, None),  # empty ids of cores
        ("nosys", 4, 4, None, None),
        ("ppc", 2, 2, None, None),
        ("quota05", 4, 1, 0.5, None),
        ("quotaj", 4, 4, None, None),  # a quota of -1
        ("quotap0", 4, 4, None, None),  # a period of 0
        ("s390", 2, 2, None, None),
        ("smt", 8, 4, None, None),
        ("v1", 8, 1, 1.5, 2),
        ("v2n", 8, 2, 2.5, 1),
        ("vm0", 4, 4, None, None),  # all CPUs have the core id 0
    ],
)
def test_machines_that_were_met_are_as_their_files_say(
    shared, name, cpus, cores, quota, memory_gib
):
    mask = frozenset(range(cpus) if isinstance(cpus, int) else cpus)
    host = detect(shared / "cases" / "hosts" / name, mask)
    assert {cpu.number for cpu in host.usable} == mask
    assert (host.cores, host.cpu_quota, host.nodes, host.sockets) == (cores, quota, 1, 1)
    assert host.memory_limited == (memory_gib is not None)
    if memory_gib is not None:
        assert host.memory_bytes == memory_gib * 2**30
