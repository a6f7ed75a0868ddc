"""Limits of the pod that Kubernetes' Downward API states in variables.

The cgroup is the source for a limit of the container's own: it changes when the pod is resized, a variable
does not. A container cannot see a limit on the whole pod, which is set one level above. The Downward API
states that limit where the container has none; without either it states what the node can allocate, which is
no limit.

Source: https://kubernetes.io/docs/concepts/workloads/pods/downward-api/ and, for the order of the three,
``defaultPodLimitsForDownwardAPI`` in the kubelet (Kubernetes 1.34 and newer)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CPU_LIMIT = "FEEDWATER_CPU_LIMIT_MILLICORES"
"""``limits.cpu`` with divisor ``1m``: the default divisor rounds 1500m up to 2."""
MEMORY_LIMIT = "FEEDWATER_MEMORY_LIMIT_BYTES"
"""``limits.memory``."""
ALLOCATABLE = 0.75
"""From this share of the machine on, a stated limit counts as what the node can allocate: by default a node
reserves at most a tenth for itself."""


@dataclass(frozen=True, slots=True)
class PodLimits:
    """Limits of the pod as a whole. None is unknown or without limit."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None


def pod_limits(environ: Mapping[str, str], machine_cpus: int, machine_bytes: int | None) -> PodLimits:
    """Return the limits that variables state, leaving out what a node can allocate.

    Args:
        environ: Holds `CPU_LIMIT` and `MEMORY_LIMIT`; a value that is no number above 0 is ignored.
        machine_cpus: CPUs of the machine.
        machine_bytes: Memory of the machine; None is unknown, and then no memory limit is returned.
    """
    cores = _number(environ, CPU_LIMIT) / 1000
    memory = _number(environ, MEMORY_LIMIT)
    return PodLimits(
        cpu_cores=cores if 0 < cores < ALLOCATABLE * machine_cpus else None,
        memory_bytes=memory if 0 < memory < ALLOCATABLE * (machine_bytes or 0) else None,
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else 0
