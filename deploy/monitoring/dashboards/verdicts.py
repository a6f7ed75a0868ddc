"""Verdicts as colours, and as the numbers that a state timeline needs.

The colour says who can help; the name always stands beside it.
"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from deploy.monitoring.dashboards.frame import DOCS
from deploy.monitoring.dashboards.panels import Links
from feedwater.verdicts import VERDICTS, Remedy

RUNBOOK: Links = [
    {
        "title": "What each verdict asks for",
        "url": f"{DOCS}/runbooks.md#what-each-verdict-asks-for",
        "targetBlank": True,
    }
]

COLOUR_OF_REMEDY = {
    Remedy.UNKNOWN: "#8e8e8e",
    Remedy.NOTHING: "green",
    Remedy.SETTING: "blue",
    Remedy.LIMIT: "orange",
    Remedy.ELSEWHERE: "purple",
}
COLOURS = {name: COLOUR_OF_REMEDY[words.remedy] for name, words in VERDICTS.items()}


def numbered(matchers: str) -> str:
    """Return a query with one series for each loader, whose value is the verdict's place in `COLOURS`.

    PromQL cannot make a number of a label: there is one operand for each verdict.
    """
    parts = (
        f'{place} * loader_verdict:feedwater_verdict:max{{{matchers}, verdict="{verdict}"}}'
        for place, verdict in enumerate(COLOURS)
    )
    return "max by (pod, loader, rank) (\n  " + "\n  or ".join(parts) + "\n)"


def by_number() -> ValueMap:
    """Map places to names and colours."""
    return _mapped({str(place): verdict for place, verdict in enumerate(COLOURS)})


def by_name() -> ValueMap:
    """Map names to themselves and colours."""
    return _mapped({verdict: verdict for verdict in COLOURS})


def _mapped(keys: dict[str, str]) -> ValueMap:
    return ValueMap(
        {
            key: ValueMappingResult(text=verdict, color=COLOURS[verdict], index=index)
            for index, (key, verdict) in enumerate(keys.items())
        }
    )
