"""The metrics of Prometheus: their families, their collector, their text."""
