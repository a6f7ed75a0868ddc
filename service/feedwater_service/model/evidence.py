"""The facts behind a verdict. A fact that was not measured is absent, never zero."""

from __future__ import annotations

from collections.abc import Sequence

from feedwater_service.model.bucket import Machine
from feedwater_service.model.estimate import Estimate
from feedwater_service.model.values import Container, Epoch, Evidence


def throttled_share(containers: Sequence[Container]) -> float | None:
    """Return the share of CFS periods in which the container was throttled; None where not known."""
    known = [c for c in containers if c.periods is not None and c.throttled_periods is not None]
    if len(known) < 2:
        return None
    periods = (known[-1].periods or 0) - (known[0].periods or 0)
    throttled = (known[-1].throttled_periods or 0) - (known[0].throttled_periods or 0)
    return throttled / periods if periods > 0 and throttled >= 0 else None


def facts(epoch: Epoch, estimate: Estimate, machine: Machine, host_wait: bool) -> tuple[Evidence, ...]:
    """Return what was measured and fitted, as evidence."""
    figures = estimate.measured
    wait_name = "host wait" if host_wait else "starvation"
    found = [
        Evidence("starvation_ratio", figures.starvation, f"{figures.starvation:.0%} {wait_name}"),
        Evidence(
            "batches_per_second", figures.batches_per_second, f"{figures.batches_per_second:.3g} batches/s"
        ),
        Evidence(
            "start_up_seconds", figures.start_up_seconds, f"{figures.start_up_seconds:.2g} s of start-up"
        ),
        Evidence("cpu_limit_cores", machine.cores, f"{machine.cores:.3g} cores to run on"),
    ]
    if estimate.known.loads:
        found += _load_facts(estimate)
    if estimate.known.transport:
        receive = estimate.work.receive_cpu_seconds
        found.append(Evidence("receive_seconds", receive, f"{_ms(receive)} to receive a batch"))
    share = throttled_share(epoch.containers)
    if share is not None:
        found.append(Evidence("throttled_ratio", share, f"throttled in {share:.0%} of periods"))
    return tuple(found)


def _load_facts(estimate: Estimate) -> list[Evidence]:
    load, cpu, blocked = estimate.load_seconds, estimate.load_cpu_seconds, estimate.blocked_seconds
    delay = estimate.run_delay_share
    found = [
        Evidence("load_seconds", load, f"{_ms(load)} to load a batch"),
        Evidence("load_cpu_seconds", cpu, f"{_ms(cpu)} of it on the CPU"),
        Evidence("load_blocked_seconds", blocked, f"{_ms(blocked)} of it blocked"),
        Evidence("run_delay_ratio", delay, f"{delay:.0%} of runnable time without a CPU"),
    ]
    if estimate.work.load_width > 1:
        width = estimate.work.load_width
        found.append(Evidence("load_width_cores", width, f"{width:.2g} CPUs busy in each worker"))
    return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
