"""Rules, alerts and the queries of the runbooks, as the real promtool sees them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests import ROOT
from tests.e2e.servers import tool

RULES = ROOT / "deploy/helm/feedwater/files/prometheus"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
PAGES = (ROOT / "docs/runbooks.md", ROOT / "docs/metrics.md")


def _promtool(*arguments: object) -> str:
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.real
def test_rules_are_well_formed() -> None:
    """`promtool check rules` finds every rule, and no two that record the same."""
    said = _promtool("check", "rules", RULES / "feedwater.rules.yaml", RULES / "feedwater.alerts.yaml")
    assert said.count("SUCCESS") == 2


@pytest.mark.real
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_rules_do_what_their_cases_say(cases: Path) -> None:
    """Alerts fire with their full text, stay silent at near misses, and resolve."""
    assert "SUCCESS" in _promtool("test", "rules", cases)


@pytest.mark.real
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_queries_in_the_docs_are_promql(page: Path, tmp_path: Path) -> None:
    """Each query that a page shows can be pasted: promtool takes it as a rule's expression."""
    queries = _queries(page.read_text())
    assert queries
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    written = tmp_path / "queries.yaml"
    # JSON is YAML.
    written.write_text(json.dumps({"groups": [{"name": page.stem, "rules": rules}]}))
    _promtool("check", "rules", written)


def _queries(text: str) -> list[str]:
    """Return the queries of a page: a line each, or those that go on where a line is indented."""
    blocks = re.findall(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [query for block in blocks for query in re.split(r"\n(?=\S)", block.strip())]
