"""What the Downward API states is a limit, or the node's size, or nothing."""

from __future__ import annotations

import pytest

from feedwater.relay.downward import PodLimits, pod_limits

GIB = 1 << 30


def _stated(cpu: str, memory: str) -> PodLimits:
    environ = {"FEEDWATER_CPU_LIMIT_MILLICORES": cpu, "FEEDWATER_MEMORY_LIMIT_BYTES": memory}
    return pod_limits(environ, 8, 32 * GIB)


def test_limits_are_in_cores_and_bytes() -> None:
    """1500 millicores are 1.5 cores."""
    assert _stated("1500", str(4 * GIB)) == PodLimits(1.5, 4 * GIB)


def test_what_the_node_can_allocate_is_no_limit() -> None:
    """Of 8 cores 7.91, of 32 GiB 29: what a node gives where neither container nor pod has a limit."""
    assert _stated("7910", str(29 * GIB)) == PodLimits()


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "4Gi", "\u0661"])
def test_what_is_no_number_is_no_limit(text: str) -> None:
    """Only whole numbers above 0 are what the Downward API writes."""
    assert _stated(text, text) == PodLimits()


def test_without_variables_there_is_no_limit() -> None:
    """Outside Kubernetes nothing is stated."""
    assert pod_limits({}, 8, None) == PodLimits()
