"""Recorded trees of ``/proc`` and ``/sys/fs/cgroup``, and rings to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feedwater import ring

FIXTURES = Path(__file__).parents[3] / "fixtures"


@pytest.fixture
def recorded() -> Path:
    """The folder of recorded trees."""
    return FIXTURES


@pytest.fixture
def words() -> memoryview:
    """A ring's words."""
    fd, made = ring.create()
    os.close(fd)
    return made
