"""The demo's CPU limit, on recorded trees of both cgroup versions."""

from __future__ import annotations

import pathlib
import subprocess

from docs.examples.demo.limit import cpu_limit


def test_limit_is_a_quota_per_period_under_cgroup_v2(tmp_path: pathlib.Path) -> None:
    """1.5 cores are 150,000 of every 100,000 microseconds, written to `cpu.max` of a group of its own."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")

    with cpu_limit(1.5, tmp_path) as limit:
        (quota,) = tmp_path.rglob("cpu.max")

        assert quota.read_text() == "150000 100000"
        assert limit.cores == 1.5
        assert str(quota.parent) in limit.how


def test_limit_is_a_quota_per_period_under_cgroup_v1(tmp_path: pathlib.Path) -> None:
    """The same under v1: two files, in a child of the `cpu` controller."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cgroup.procs").touch()

    with cpu_limit(0.5, tmp_path) as limit:
        (quota,) = tmp_path.rglob("cpu.cfs_quota_us")

        assert quota.read_text() == "50000"
        assert (quota.parent / "cpu.cfs_period_us").read_text() == "100000"
        assert limit.cores == 0.5


def test_limit_says_so_where_none_can_be_set(tmp_path: pathlib.Path) -> None:
    """Without any cgroup the command runs as it is, and the reason is a phrase to print."""
    with cpu_limit(1.0, tmp_path / "absent", systemd="/absent/systemd-run") as limit:
        assert limit.cores is None
        assert limit.prefix == ()
        assert limit.how


def test_limit_holds_for_a_command_that_is_run_under_it(tmp_path: pathlib.Path) -> None:
    """The words before a command put it into the group and leave its arguments alone."""
    (tmp_path / "cgroup.controllers").write_text("cpu\n")

    with cpu_limit(1.0, tmp_path) as limit:
        words = [*limit.prefix, "printf", "%s", "a  b"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        (entered,) = tmp_path.rglob("cgroup.procs")

        assert said == "a  b"
        assert entered.read_text().strip().isdecimal()
