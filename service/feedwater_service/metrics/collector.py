"""Prometheus metrics: a view over the state, made at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from feedwater_service.metrics.families import FAMILIES, Family, HistogramRow, Row, View
from feedwater_service.state.columns import BOUNDS
from feedwater_service.state.counters import Histogram
from feedwater_service.state.sessions import Session, State

_LE = [str(bound) for bound in BOUNDS]


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """The rows of one family at one moment. Later reports do not change them."""

    family: Family
    rows: list[Row | HistogramRow]


class StateCollector:
    """Makes the metric families from a state."""

    def __init__(self, state: State, version: str, python: str) -> None:
        self._state = state
        self._version = version
        self._python = python

    def collect(self) -> Iterator[Metric]:
        """Yield all families of `FAMILIES`, as they are now."""
        yield from map(_metric, self.rows())

    def rows(self) -> list[FamilyRows]:
        """Return what the families are made of, of one moment: a sixth of the time of `collect`."""
        view = self._view()
        return [FamilyRows(family, list(map(_fixed, family.rows(view)))) for family in FAMILIES]

    @staticmethod
    def metrics(rows: list[FamilyRows]) -> Iterator[Metric]:
        """Yield the families of such rows; another thread may do so."""
        yield from map(_metric, rows)

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


def _fixed(row: Row | HistogramRow) -> Row | HistogramRow:
    labels, value = row
    # A report replaces the counts of a histogram, so a shallow copy keeps the old ones.
    return (labels, copy(value)) if isinstance(value, Histogram) else (labels, value)


def _metric(found: FamilyRows) -> Metric:
    family = found.family
    if family.kind == "histogram":
        histograms = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, histogram in found.rows:
            assert isinstance(histogram, Histogram)
            histograms.add_metric(labels, _buckets(histogram), histogram.total)
        return histograms
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in found.rows:
        assert not isinstance(value, Histogram)
        metric.add_metric(labels, value)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [*zip(_LE, map(float, histogram.cumulative), strict=True), ("+Inf", float(histogram.count))]
