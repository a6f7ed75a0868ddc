"""Prometheus metrics: a view over the state, made at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from feedwater_service.metrics.families import FAMILIES, Family, View
from feedwater_service.state.columns import BOUNDS
from feedwater_service.state.counters import Histogram
from feedwater_service.state.sessions import Session, State

_LE = [str(bound) for bound in BOUNDS]


class StateCollector:
    """Makes the metric families from a state."""

    def __init__(self, state: State, version: str, python: str) -> None:
        self._state = state
        self._version = version
        self._python = python

    def collect(self) -> Iterator[Metric]:
        """Yield all families of `FAMILIES`."""
        view = self._view()
        for family in FAMILIES:
            yield _metric(family, view)

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registry does not collect at registration."""
        return []

    def _view(self) -> View:
        newest = {(s.name, str(s.rank)): s for s in sorted(self._state.sessions.values(), key=_age)}
        counters = [
            ((name, str(rank)), counters) for (name, rank), counters in self._state.counters.by_series.items()
        ]
        return View(self._state, newest, counters, self._version, self._python)


def _age(session: Session) -> tuple[bool, float]:
    return not session.ended, session.last_seen_seconds


def _metric(family: Family, view: View) -> Metric:
    if family.kind == "histogram":
        histograms = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, histogram in family.rows(view):
            assert isinstance(histogram, Histogram)
            histograms.add_metric(labels, _buckets(histogram), histogram.total)
        return histograms
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in family.rows(view):
        assert not isinstance(value, Histogram)
        metric.add_metric(labels, value)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [*zip(_LE, map(float, histogram.cumulative), strict=True), ("+Inf", float(histogram.count))]
