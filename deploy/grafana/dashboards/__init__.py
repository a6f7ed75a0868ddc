"""Feedwater's Grafana dashboards, from which the JSON files beside this package are made."""
