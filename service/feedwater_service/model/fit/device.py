"""The two-stage consumer: the host's and the device's part of a step, and how far the host runs ahead.

Under asynchronous CUDA the host queues a step's work on the device and continues. Sampled steps give the time
that the device was busy, and idle before it. From them and the host's own times follow

- the *device stage*: its busy time;
- whether the host waits for each step (``loss.item()``): then no step of the host is shorter than the
  device's, and the device is idle for as long as the host waits for data. Else the host runs ahead, by the
  work that the device still had while the host waited for data;
- the *host stage*: the steps before which the device was idle, as the host did not wait for it in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.numbers import costs, floors
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.types import DeviceStep, Epoch, Loader


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One sampled step, from both sides."""

    wait: float
    """Of the host for this batch."""
    step: float
    """Of the host."""
    device: DeviceStep


def with_device(work: Workload, epoch: Epoch, own_steps: Sequence[float] | None = None) -> Workload:
    """Return the work with its steps split into the host's and the device's part; unchanged with few samples.

    Args:
        work: Fitted to the epoch, its steps as the host saw them.
        epoch: With the device's sampled steps.
        own_steps: Shape (batches,), seconds: the rank's steps without waiting for others, where known.
    """
    sampled = _sampled(epoch, own_steps if own_steps is not None else epoch.steps)
    if len(sampled) < floors.MIN_SAMPLES:
        return work
    first_steps = _steps_before_backpressure(epoch, sampled)
    ahead = max(_run_ahead(sampled), min(floors.MAX_RUN_AHEAD, len(first_steps)))
    cpu = fmean(c for c, _ in work.steps)
    if ahead == 0:
        steps = (cpu, _rest_after_device(sampled, cpu))
    else:
        host = _free_running_step(sampled, first_steps)
        # A host that spins while it waits for the device uses CPU time, but does no work.
        steps = (min(cpu, host), max(0.0, host - cpu))
    return replace(
        work, steps=(steps,), device=tuple(s.device.busy_seconds for s in sampled), run_ahead=ahead
    )


def with_pin_thread(work: Workload, loader: Loader, epoch: Epoch) -> Workload:
    """Return the work with the thread that copies batches to pinned memory, where there is one.

    That thread takes a batch from its worker and copies it. The measured cost of a delivery is both together.
    """
    if not epoch.settings.pin_memory or not loader.uses_cuda:
        # Without an accelerator PyTorch warns, and pins nothing.
        return work
    sizes = [load.batch_bytes for load in epoch.loads if load.batch_bytes]
    copy = costs.PIN_SECONDS_PER_BYTE * (fmean(sizes) if sizes else floors.UNKNOWN_BATCH_BYTES)
    if epoch.settings.num_workers == 0:
        return replace(
            work, inline_cpu_seconds=max(0.0, work.inline_cpu_seconds - copy), pin_cpu_seconds=copy
        )
    receive = max(work.receive_seconds - copy, 0.5 * work.receive_seconds)
    return replace(work.with_receive_seconds(receive), pin_cpu_seconds=copy)


def with_workload(fitted: Estimate, work: Workload) -> Estimate:
    """Return the fitted quantities with other work, and the means of its steps."""
    return replace(
        fitted,
        work=work,
        step_cpu_seconds=fmean(c for c, _ in work.steps),
        step_timed_seconds=fmean(t for _, t in work.steps),
    )


def _sampled(epoch: Epoch, steps: Sequence[float]) -> list[_Sampled]:
    """The sampled steps without the first batch's, whose idle time is start-up."""
    # Of a long epoch only the first batch and the newest ones are kept.
    lost = max(0, epoch.batches - len(epoch.waits))
    known = min(len(epoch.waits), len(steps))
    pairs = ((d, d.batch - lost) for d in epoch.device if d.batch > 0)
    return [_Sampled(epoch.waits[i], steps[i], d) for d, i in pairs if 0 < i < known]


def _run_ahead(sampled: Sequence[_Sampled]) -> int:
    """Steps that the host gets ahead of the device."""
    busy = fmean(s.device.busy_seconds for s in sampled)
    if busy <= 0:
        return 0
    waits_for_it = median(s.step - floors.SYNC_STEP_SHARE * s.device.busy_seconds for s in sampled) >= 0
    # The part of the wait for a batch in which the device was busy with earlier steps.
    hidden = sorted(max(0.0, s.wait - s.device.idle_seconds - floors.LAUNCH_GAP_SECONDS) for s in sampled)
    most = hidden[len(hidden) * 9 // 10]
    if waits_for_it and most < floors.DEVICE_IDLE_SHARE * busy:
        return 0
    return max(1, min(floors.MAX_RUN_AHEAD, math.ceil(most / busy)))


def _steps_before_backpressure(epoch: Epoch, sampled: Sequence[_Sampled]) -> list[float]:
    """The first steps of an epoch, before the host had to wait for the device.

    Where the host never waits for data, only these tell a host that runs ahead from one that waits each time.
    """
    busy = fmean(s.device.busy_seconds for s in sampled)
    held_up = median(s.step for s in sampled) >= floors.SYNC_STEP_SHARE * busy
    if not held_up or epoch.batches > len(epoch.waits):
        return []
    return [step for step in epoch.steps[: floors.MAX_RUN_AHEAD + 1] if step < 0.5 * busy]


def _rest_after_device(sampled: Sequence[_Sampled], cpu: float) -> float:
    """Mean rest of a step after the device and the host's own work have ended."""
    return fmean(max(0.0, s.step - max(s.device.busy_seconds, cpu)) for s in sampled)


def _free_running_step(sampled: Sequence[_Sampled], first_steps: Sequence[float]) -> float:
    """Mean step of a host that does not wait for the device."""
    free = [s.step for s in sampled if s.device.idle_seconds > _negligible_idle_seconds(s.device)]
    if len(free) >= floors.MIN_SAMPLES:
        return fmean(free)
    if first_steps:
        return fmean(first_steps)
    # The device was hardly ever idle: the quickest steps waited least for it.
    return sorted(s.step for s in sampled)[len(sampled) // 10]


def _negligible_idle_seconds(step: DeviceStep) -> float:
    return max(floors.LAUNCH_GAP_SECONDS, floors.DEVICE_IDLE_SHARE * step.busy_seconds)
