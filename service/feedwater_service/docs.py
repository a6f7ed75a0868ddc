"""Write the tables in the documentation from the tables in the code.

``python -m feedwater_service.docs [ROOT]`` rewrites what lies between the markers of each page; a test
compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from feedwater.settings import table
from feedwater_service.metrics.families import FAMILIES, LOADER
from feedwater_service.settings import OPTIONS, documentation
from feedwater_service.state.counters import KEPT_SERIES

MARK = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def metrics_table() -> str:
    """Return all metrics as a Markdown table."""
    rows = [
        f"| `{f.exposed}` | {f.kind} | {f.unit} | {_codes(f.labels)} | {_cell(f.help)} | {_cell(f.guide)} |"
        for f in sorted(FAMILIES, key=lambda f: f.name)
    ]
    head = ["| metric | type | unit | labels | meaning | how to read it |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def series_table() -> str:
    """Return how many series there can be."""
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
"""By the name in the marker."""
PAGES = ("docs/metrics.md", "docs/configuration.md")


def render(page: str) -> str:
    """Return a page with its tables made anew; tables of other names are left alone."""
    return MARK.sub(_renewed, page)


def main(root: Path) -> None:
    """Rewrite the pages under the project's root."""
    for name in PAGES:
        path = root / name
        path.write_text(render(path.read_text()))


def _renewed(found: re.Match[str]) -> str:
    table = TABLES.get(found["name"])
    return found[0] if table is None else f"{found[1]}{table()}{found[3]}"


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _default(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
