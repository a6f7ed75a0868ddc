"""Each test starts as a fresh process would: no marks, no transport, its own directory for records."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def fresh(fresh_process: None) -> None:
    """Start every test here so."""
