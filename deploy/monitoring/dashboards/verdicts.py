"""Verdicts as colours, and as the numbers that a state timeline needs.

The colour says who can help; the name always stands beside it.
"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from deploy.monitoring.dashboards.frame import DOCS
from deploy.monitoring.dashboards.panels import Links

RUNBOOK: Links = [
    {
        "title": "What each verdict asks for",
        "url": f"{DOCS}/runbooks.md#what-each-verdict-asks-for",
        "targetBlank": True,
    }
]

FINE, SETTING, LIMIT, ELSEWHERE, UNKNOWN = "green", "blue", "orange", "purple", "#8e8e8e"

COLOURS = {
    "UNKNOWN": UNKNOWN,
    "NOT_STARVED": FINE,
    # Another setting of the DataLoader helps.
    "TOO_FEW_WORKERS": SETTING,
    "TOO_MANY_WORKERS": SETTING,
    "SLOW_BATCHES": SETTING,
    "START_UP": SETTING,
    # A limit of the pod stands in the way.
    "CPU_LIMIT": LIMIT,
    "MEMORY": LIMIT,
    "SHARED_MEMORY": LIMIT,
    # The cause lies outside of the loader: storage, the trainer's own code, other pods, another rank.
    "STORAGE": ELSEWHERE,
    "MAIN_PROCESS": ELSEWHERE,
    "OVERSUBSCRIBED": ELSEWHERE,
    "CPU_CONTENTION": ELSEWHERE,
    "STRAGGLER_RANK": ELSEWHERE,
}


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
