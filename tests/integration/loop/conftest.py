"""Each test starts as a fresh process would: no marks, no transport, its own directory for records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedwater.loop import marks, process, say
from feedwater.testing import FakeTransport

# Spawned workers import the datasets by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what the test before left, and keep records of changes in the test's own directory."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    monkeypatch.setenv("FEEDWATER_RUN_DIR", str(run_dir))
    monkeypatch.setattr(process, "_settings", None)
    monkeypatch.setattr(process, "_transport", FakeTransport())
    marks.forget_all()
    say.forget_all()
    yield
    marks.forget_all()
