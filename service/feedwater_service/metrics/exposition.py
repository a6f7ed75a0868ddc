"""Metrics as text, in Prometheus' own format or in OpenMetrics, as the scraper asks.

prometheus_client's encoders check the name and labels of each sample by regular expressions: 12 and 20 ms for
16 ranks, where this takes 4. A test checks the names and labels of our table once; only label values come
from outside, and they are escaped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric

from feedwater_service.metrics.collector import FamilyRows, StateCollector
from feedwater_service.rendering import Rendering

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LEAST_WEIGHT = 0.001
"""Of a format in a header ``Accept``; 0 excludes it."""


class Exposition:
    """Renders a collector in the format that a scraper asks for."""

    def __init__(self, collector: StateCollector) -> None:
        self._collector = collector
        self._process = ProcessCollector(registry=CollectorRegistry())
        self._plain = Rendering(lambda: self._encode_apart(openmetrics=False))
        self._openmetrics = Rendering(lambda: self._encode_apart(openmetrics=True))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, as the header ``Accept`` prefers."""
        openmetrics = _prefers_openmetrics(accept)
        return self._encode(self._collector.rows(), openmetrics), OPENMETRICS if openmetrics else PLAIN

    async def share(self, accept: str) -> tuple[bytes, str]:
        """Return the same, one rendering for all who ask at about the same time."""
        if _prefers_openmetrics(accept):
            return await self._openmetrics.get(), OPENMETRICS
        return await self._plain.get(), PLAIN

    async def _encode_apart(self, *, openmetrics: bool) -> bytes:
        # The rows are of one moment; only to turn them into text is left to another thread.
        return await asyncio.to_thread(self._encode, self._collector.rows(), openmetrics)

    def _encode(self, rows: list[FamilyRows], openmetrics: bool) -> bytes:
        metrics = chain(self._collector.metrics(rows), self._process.collect())
        return encode(metrics, openmetrics=openmetrics)


def _prefers_openmetrics(accept: str) -> bool:
    """Say whether a header ``Accept`` asks for OpenMetrics at least as much as for plain text."""
    weights: dict[str, float] = {}
    for wish in accept.lower().split(","):
        media, *parameters = [part.strip() for part in wish.split(";")]
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        with suppress(ValueError):
            weights[media] = max(float(weight), weights.get(media, 0.0))
    plain = next((weights[media] for media in ("text/plain", "text/*", "*/*") if media in weights), 0.0)
    return weights.get("application/openmetrics-text", 0.0) >= max(plain, LEAST_WEIGHT)


def encode(metrics: Iterable[Metric], *, openmetrics: bool) -> bytes:
    """Return the text of metric families.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and
    https://prometheus.io/docs/specs/om/open_metrics_spec/
    """
    lines = [line for metric in metrics for line in _lines(metric, openmetrics=openmetrics)]
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode()


def _lines(metric: Metric, *, openmetrics: bool) -> Iterator[str]:
    # The older format names a counter by its sample, OpenMetrics by its family.
    name = f"{metric.name}_total" if metric.type == "counter" and not openmetrics else metric.name
    text = metric.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n"
    for sample in metric.samples:
        labels = ",".join([f'{key}="{_escaped(value)}"' for key, value in sample.labels.items()])
        yield (
            f"{sample.name}{{{labels}}} {sample.value!r}\n" if labels else f"{sample.name} {sample.value!r}\n"
        )


@lru_cache(maxsize=2048)
def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
