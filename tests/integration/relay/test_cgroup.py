"""Limits read from a real control group of this kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feedwater.relay.cgroup import CgroupReader

V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")

pytestmark = pytest.mark.cgroup


@pytest.fixture
def narrow_group(eventually: Callable[..., object]) -> Iterator[Path]:
    """A group that may use a twentieth of a core, with another one below it."""
    is_v1 = (V1 / "cpu.cfs_quota_us").exists()
    group = (V1 if is_v1 else V2) / f"feedwater-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if is_v1 else "cpu.max")).write_text("5000")
        (group / "below").mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group / "below"
    # The kernel empties a group a moment after its last process was reaped.
    eventually(lambda: _is_removed(group / "below"))
    eventually(lambda: _is_removed(group))


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def test_quota_of_the_level_above_is_found_and_its_throttling_read(narrow_group, eventually):
    """A process that spins under 0.05 cores, the limit of the group above its own, is throttled."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        (narrow_group / "cgroup.procs").write_text(str(spinning.pid))
        reader = CgroupReader(spinning.pid)
        limits = reader.limits()
        assert (limits.cpu_quota_cores, limits.cpu_period_seconds) == (0.05, 0.1)
        eventually(lambda: (reader.usage().throttled_periods or 0) > 2)
        usage = reader.usage()
        assert usage.periods is not None
        assert usage.throttled_seconds is not None
        assert usage.throttled_seconds > 0
    finally:
        spinning.kill()
        spinning.wait()
