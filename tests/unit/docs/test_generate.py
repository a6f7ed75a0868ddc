"""The tables in the documentation are those in the code."""

from __future__ import annotations

import pytest

from docs import generate
from tests import ROOT


@pytest.mark.parametrize("page", generate.PAGES)
def test_tables_in_the_docs_are_current(page: str) -> None:
    """`make docs` would change nothing."""
    text = (ROOT / page).read_text()
    assert generate.render(text) == text, "run: make docs"


def test_every_table_has_its_place() -> None:
    """Each generated table is shown on a page."""
    pages = "".join((ROOT / page).read_text() for page in generate.PAGES)
    for name in generate.TABLES:
        assert f"<!-- table: {name} -->" in pages


def test_render_leaves_other_tables_alone() -> None:
    """A marker of another generator keeps its content."""
    page = "<!-- table: no-such-table -->\n| theirs |\n<!-- end -->\n"
    assert generate.render(page) == page
