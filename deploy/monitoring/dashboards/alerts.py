"""Alerts as colours, and as links to their sections of the runbooks."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

FILE = Path(__file__).resolve().parents[2] / "helm/feedwater/files/prometheus/feedwater.alerts.yaml"


def anchors() -> ValueMap:
    """Map each alert's name to the anchor of its section."""
    groups = yaml.safe_load(FILE.read_text())["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    return ValueMap(
        {name: ValueMappingResult(text=name.lower(), index=place) for place, name in enumerate(names)}
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
