"""Which cases run on which PyTorch, and the table of what they came to."""

from __future__ import annotations

import pytest

from tests.frameworks.framework_cases import Case, is_oldest_torch
from tests.frameworks.framework_runs import PAIRS, as_row


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PAIRS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run beside the newest PyTorch, as its case says: a skip would be a failure."""
    if is_oldest_torch():
        return
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what each training came to: the table that docs/frameworks.md is written from."""
    for pair in config.stash[PAIRS]:
        terminalreporter.write_line(as_row(pair))


def _is_left_out(item: pytest.Item) -> bool:
    found = getattr(item, "callspec", None)
    case = None if found is None else found.params.get("pair")
    return isinstance(case, Case) and case.not_on_newest != ""
