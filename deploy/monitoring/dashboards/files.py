"""A dashboard as the text of its file."""

from __future__ import annotations

from itertools import chain

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Panel, RowPanel


def name(dashboard: Dashboard) -> str:
    """Return the name of its file, which is its uid's."""
    return f"{dashboard.build().uid}.json"


def text(dashboard: Dashboard) -> str:
    """Return the JSON, with keys sorted so that a change shows as itself alone."""
    built = dashboard.build()
    _number(built.panels or [])
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(built) + "\n"


def _number(panels: list[Panel | RowPanel]) -> None:
    """Number the panels in order of appearance: links to a single panel name it by that."""
    inside = ((panel, *(panel.panels if isinstance(panel, RowPanel) else ())) for panel in panels)
    for number, panel in enumerate(chain.from_iterable(inside), start=1):
        panel.id_val = number
