"""The page of benchmarks says what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.benchmark_page import PAGE, page


def test_the_page_is_current() -> None:
    """docs/benchmarks.md is what tests/support/benchmark_page.py makes of the committed results."""
    assert PAGE.read_text() == page(), "run: python -m tests.support.benchmark_page"


def test_a_missed_bar_is_listed_first(tmp_path: Path) -> None:
    """What does not hold stands above all tables, with its figure and its bar."""
    row = {
        "name": "a figure",
        "unit": "ms",
        "median": 2.0,
        "low": 1.0,
        "high": 3.0,
        "runs": 5,
        "bar": "<= 1",
        "note": "",
        "holds": False,
        "machine": {"cpu": "CPU", "cores": 2, "kernel": "6"},
        "versions": {"python": "3.11"},
        "commit": "abc",
    }
    run = {
        "benchmark": "x",
        "question": "How?",
        "command": "python x.py",
        "taken": "2026-01-01",
        "rows": [row],
    }
    (tmp_path / "x.json").write_text(json.dumps(run))
    text = page(tmp_path)
    assert "- a figure: 2.00 ms, asked: ≤ 1 (x)" in text
    assert text.index("Bars that do not hold") < text.index("## x")
