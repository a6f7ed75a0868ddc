"""Write the tables in the documentation from the tables in the code: ``make docs``.

The script replaces the text between the markers of each page. A test fails where a page is not current.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from feedwater.settings import table
from feedwater_service.metrics.families import FAMILIES, LOADER
from feedwater_service.settings import OPTIONS, documentation
from feedwater_service.state.counters import KEPT_SERIES

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def metrics_table() -> str:
    """Return all metrics as a Markdown table."""
    rows = [
        f"| `{f.exposed}` | {f.kind} | {f.unit} | {_codes(f.labels)} | {_cell(f.help)} | {_cell(f.guide)} |"
        for f in sorted(FAMILIES, key=lambda f: f.name)
    ]
    head = ["| metric | type | unit | labels | meaning | how to read it |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def series_table() -> str:
    """Return the largest number of series, by loaders and ranks, as a Markdown table."""
    each = sum(f.series for f in FAMILIES if f.labels[:2] == LOADER)
    pod = sum(f.series for f in FAMILIES if f.labels[:2] != LOADER)
    rows = [f"| {pairs:,} | {pairs * each + pod:,} |" for pairs in (1, 8, 64, KEPT_SERIES)]
    return "\n".join(["| loaders times ranks | series at most |", "|---|---|", *rows, ""])


def settings_table() -> str:
    """Return all settings of the sidecar as a Markdown table."""
    texts = documentation()
    rows = [
        f"| `{o.variable}` | `{o.flag}` | {_default(o.default)} | {_cell(texts[o.field])} |" for o in OPTIONS
    ]
    return "\n".join(["| variable | flag | default | meaning |", "|---|---|---|---|", *rows, ""])


TABLES: dict[str, Callable[[], str]] = {
    "metrics": metrics_table,
    "series": series_table,
    "sidecar-settings": settings_table,
    "client-settings": table,
}
"""What makes each table, by the name in its marker."""
PAGES = ("docs/metrics.md", "docs/configuration.md")


def render(page: str) -> str:
    """Return a page with its tables generated; tables of other names stay as they are."""
    return MARKED.sub(_current, page)


def main() -> None:
    """Rewrite the pages."""
    for name in PAGES:
        path = ROOT / name
        path.write_text(render(path.read_text()))


def _current(found: re.Match[str]) -> str:
    table = TABLES.get(found["name"])
    return found[0] if table is None else f"{found[1]}{table()}{found[3]}"


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _default(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
