"""Each test starts as a fresh process would: no marks, no transport, its own directory for records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Spawned workers import the datasets by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fresh(fresh_process: None) -> None:
    """Start every test here so."""
