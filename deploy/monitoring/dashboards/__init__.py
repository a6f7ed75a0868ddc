"""Feedwater's Grafana dashboards, from which the chart's JSON files are generated."""
