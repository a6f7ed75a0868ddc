"""The tables in the documentation are those in the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("docs/metrics.md", "docs/configuration.md")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that writes the tables."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_the_ones_checked_here(generate: ModuleType) -> None:
    """No page is generated that the test below does not compare."""
    assert generate.PAGES == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_tables_in_the_docs_are_current(generate: ModuleType, page: str) -> None:
    """`make docs` would change nothing."""
    text = (ROOT / page).read_text()
    assert generate.render(text) == text, "run: make docs"


def test_every_table_has_its_place(generate: ModuleType) -> None:
    """Each generated table is shown on a page."""
    pages = "".join((ROOT / page).read_text() for page in PAGES)
    for name in generate.TABLES:
        assert f"<!-- table: {name} -->" in pages


def test_render_leaves_other_tables_alone(generate: ModuleType) -> None:
    """A marker of another generator keeps its content."""
    page = "<!-- table: no-such-table -->\n| theirs |\n<!-- end -->\n"
    assert generate.render(page) == page
