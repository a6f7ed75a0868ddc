"""Workloads outside the suite: what changes mid-run or does harm, and what is measured beside neighbours."""

from __future__ import annotations

from tests.benchmarks.recommendation.workloads import ENOUGH, FEW, MIB, SOME, SWEPT, Workload, _of, _timed, _w

__all__ = ["BESIDE_ONLY", "DRIVEN_ONLY", "every_workload"]

DRIVEN_ONLY = (
    _w(
        "cold-first",
        "cold",
        True,
        _timed(("constant", 0.003), 0.0005, (), "Cold", 4.0),
        4,
        260,
        step_timed=0.004,
        counts=SOME,
    ),
    _w(
        "turning",
        "turning",
        True,
        _timed(("constant", 0.002), 0.0005, (), "Turning", 3.0, 3),
        4,
        260,
        step_timed=0.004,
        counts=SOME,
    ),
    _w(
        "limit-changed",
        "limit",
        True,
        _timed(("constant", 0.002), 0.002),
        3,
        240,
        step_timed=0.003,
        quota_cores=2.0,
        counts=SOME,
    ),
    _w(
        "open-file",
        "open-file",
        True,
        _of("Opened", 0.002),
        4,
        160,
        step_timed=0.003,
        counts=FEW,
        verdicts={0: ENOUGH},
    ),
    _w(
        "memory-tight",
        "memory",
        True,
        _timed(("constant", 0.02), 0.0003, (), "Hungry", 120 * MIB),
        2,
        140,
        step_timed=0.003,
        memory_bytes=800 * MIB,
        counts=FEW,
    ),
)

BESIDE_ONLY = (
    _w(
        "init-cpu",
        "start-up",
        False,
        _timed(("constant", 0.005), 0.0003),
        2,
        60,
        step_timed=0.002,
        init_cpu=0.3,
    ),
)
"""Workloads that are measured beside busy neighbours alone."""


def every_workload(name: str) -> Workload:
    """Return the workload of that name: swept, driven only, or measured beside neighbours only."""
    return next(w for w in (*SWEPT, *DRIVEN_ONLY, *BESIDE_ONLY) if w.name == name)
