"""Alerts as colours, and as links to their sections of the runbooks."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

from deploy.monitoring.alerts import ALERTS


def anchors() -> ValueMap:
    """Map each alert's name to the anchor of its section."""
    return ValueMap(
        {
            alert.name: ValueMappingResult(text=alert.name.lower(), index=place)
            for place, alert in enumerate(ALERTS)
        }
    )


def severities() -> ValueMap:
    """Map severities to colours."""
    colours = {"critical": "red", "warning": "orange", "info": "blue"}
    return ValueMap(
        {
            name: ValueMappingResult(text=name, color=colour, index=place)
            for place, (name, colour) in enumerate(colours.items())
        }
    )
