"""What Kubernetes' Downward API says of the container, beside what its cgroup shows.

The cgroup is the truth for a limit of the container's own: it changes when the pod is resized, a variable
does not. What a container cannot see is a limit on the pod as a whole, which lies one level above it. The
Downward API states that one where the container has none; where there is neither it gives what the node can
allocate, which is no limit at all.

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
"""Share of the machine from which a stated limit is taken for what the node can allocate: nodes keep back a
tenth at most where nobody asked for more, and three quarters of a node is nearly all of it."""


@dataclass(frozen=True, slots=True)
class PodLimits:
    """Limits that are not the container's own. None is unknown or without limit."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None


def pod_limits(environ: Mapping[str, str], machine_cpus: int, machine_bytes: int | None) -> PodLimits:
    """Return the limits that variables state, as far as they are limits and not the node's size.

    Args:
        environ: Where `CPU_LIMIT` and `MEMORY_LIMIT` are looked for; what is no number above 0 is ignored.
        machine_cpus: CPUs of the machine.
        machine_bytes: Memory of the machine; None is unknown: then no memory limit is believed.
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
