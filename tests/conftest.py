"""What holds for all tests: in CI a skip is a failure; and what the tests of the training loop begin with."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from feedwater.loop import log, process, registry
from feedwater.loop.boundary import rings
from feedwater.testing import FakeTransport


def pytest_configure() -> None:
    """Have Ctrl-C end what the tests start, also where a script that runs them has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI is set: a test that nobody runs proves nothing.

    Only tests marked ``gpu`` may skip: a GPU is the one part that CI does not have.
    """
    report = yield
    may_skip = hasattr(report, "wasxfail") or item.get_closest_marker("gpu") is not None
    if report.skipped and in_ci() and not may_skip:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI a skip is a failure: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole file into a failure likewise."""
    report = yield
    if report.skipped and in_ci():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and in CI a skip is a failure"
    return report


@pytest.fixture
def fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what the test before left, and keep records of changes in the test's own directory."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    monkeypatch.setenv("FEEDWATER_RUN_DIR", str(run_dir))
    monkeypatch.setattr(process, "_settings", None)
    monkeypatch.setattr(process, "_transport", FakeTransport())
    registry.forget_all()
    rings.forget_all()
    log.forget_all()
    yield
    registry.forget_all()


def in_ci() -> bool:
    """Return whether this run is CI's."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def _reason(report: pytest.TestReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
