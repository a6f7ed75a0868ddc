"""Limits and usage on recorded trees: version 1, 2, both, nested, unlimited, vanished."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedwater.relay.cgroup import (
    CgroupLimits,
    CgroupReader,
    CgroupUsage,
    cores_from_cpu_max,
    cpus_from_list,
    pressure_seconds,
)

MIB = 1 << 20


@pytest.fixture
def read(recorded):
    return lambda tree: CgroupReader(7, str(recorded / "cgroup" / tree))


def test_version_2_pod_states_all_its_limits(read):
    """cpu.max 150000/100000 is 1.5 cores; 512 MiB; 1,024 pids; CPUs 0-3."""
    assert read("v2_pod").limits() == CgroupLimits(
        cpu_quota_cores=1.5, cpu_period_seconds=0.1, memory_bytes=512 * MIB, pids=1024, cpus=4
    )


def test_version_2_pod_states_its_usage(read):
    """12.5 s of CPU, 100 of 400 periods throttled for 7.5 s, 2 kills, 17 pids, 2.5 s of CPU pressure."""
    usage = read("v2_pod").usage()
    assert (usage.cpu_seconds, usage.periods, usage.throttled_periods) == (12.5, 400, 100)
    assert (usage.throttled_seconds, usage.oom_kills, usage.pids) == (7.5, 2, 17)
    assert (usage.cpu_pressure_seconds, usage.io_pressure_seconds) == (2.5, 0.5)
    assert usage.memory_pressure_seconds == 0.0


def test_needed_memory_leaves_page_cache_out(read):
    """Anonymous 100 MiB, shared 50, slabs 3, stacks 1, page tables 2, and 12 KiB; not 200 MiB of files."""
    assert read("v2_pod").usage().memory_bytes == (100 + 50 + 3 + 1 + 2) * MIB + 4096 + 8192


def test_smallest_limit_of_all_levels_binds(read):
    """The container has 2 cores and no memory limit, its pod 1.5 cores of a 50 ms period and 1 GiB."""
    assert read("v2_nested").limits() == CgroupLimits(
        cpu_quota_cores=1.5, cpu_period_seconds=0.05, memory_bytes=1024 * MIB, pids=512, cpus=6
    )


def test_usage_is_read_where_the_limit_binds(read):
    """Throttling, memory and kills are those of the pod's group, whose limits bind."""
    usage = read("v2_nested").usage()
    assert (usage.cpu_seconds, usage.periods, usage.oom_kills) == (9.0, 90, 5)
    assert usage.memory_bytes == (200 + 50 + 3 + 1 + 2) * MIB + 4096 + 8192
    assert usage.pids == 9


def test_max_is_no_limit(read):
    """Without limits all are None, and usage is that of the trainer's own group."""
    assert read("v2_unlimited").limits() == CgroupLimits()
    assert read("v2_unlimited").usage().cpu_seconds == 3.0


def test_version_1_without_a_cgroup_namespace_finds_its_mounted_part(read):
    """Docker's path /docker/abc is the host's: half a core, 512 MiB, 127 of 129 periods throttled."""
    found = read("v1_docker")
    assert found.limits() == CgroupLimits(
        cpu_quota_cores=0.5, cpu_period_seconds=0.1, memory_bytes=512 * MIB, cpus=2
    )
    assert found.usage() == CgroupUsage(
        cpu_seconds=6.4,
        periods=129,
        throttled_periods=127,
        throttled_seconds=1.99,
        memory_bytes=150 * MIB,
        oom_kills=4,
        pids=5,
    )


def test_version_1_limit_of_an_ancestor_that_cannot_be_seen_counts(read):
    """memory.limit_in_bytes says none, hierarchical_memory_limit says 256 MiB."""
    assert read("v1_hidden_limit").limits().memory_bytes == 256 * MIB


def test_version_1_minus_one_and_the_largest_number_are_no_limit(read):
    """A quota of -1 and 2**63 less a page are None."""
    assert read("v1_unlimited").limits() == CgroupLimits()


def test_hybrid_takes_each_controller_from_where_it_is(read):
    """Version 2 is mounted without controllers: one core and 2 GiB come from version 1, the level above."""
    found = read("hybrid_nested")
    assert found.limits() == CgroupLimits(
        cpu_quota_cores=1.0, cpu_period_seconds=0.1, memory_bytes=2048 * MIB, cpus=8
    )
    usage = found.usage()
    assert (usage.cpu_seconds, usage.throttled_periods, usage.memory_bytes) == (5.0, 57, 200 * MIB)


def test_group_that_vanished_is_unknown(read):
    """Nothing is raised, nothing is zero."""
    assert read("vanished").limits() == CgroupLimits()
    assert read("vanished").usage() == CgroupUsage()


def test_process_that_vanished_is_unknown(recorded):
    """No such pid: all None."""
    found = CgroupReader(12345, str(recorded / "cgroup" / "v2_pod"))
    assert (found.limits(), found.usage()) == (CgroupLimits(), CgroupUsage())


@given(st.text(max_size=40))
@example("some total=²")
def test_readers_raise_nothing_but_value_error(text):
    """Whatever a file holds, a reader returns or raises ValueError."""
    for read_it in (cores_from_cpu_max, cpus_from_list):
        with contextlib.suppress(ValueError):
            read_it(text)
    pressure_seconds(text)


@given(quota=st.integers(1, 10**8), period=st.integers(1000, 10**6))
def test_cpu_max_is_quota_over_period(quota, period):
    """Any quota and period in microseconds."""
    assert cores_from_cpu_max(f"{quota} {period}\n") == (quota / period, pytest.approx(period * 1e-6))


@pytest.mark.parametrize(
    ("text", "count"), [("0-3", 4), ("0", 1), ("0-3,8", 5), ("0,2,4-7\n", 6), ("", 0), ("\n", 0)]
)
def test_cpu_lists_are_counted(text, count):
    """As the kernel writes them."""
    assert cpus_from_list(text) == count
