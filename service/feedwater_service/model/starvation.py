"""Shares of time that are lost waiting for batches: one definition of each, for the model and the sidecar."""

from __future__ import annotations

from feedwater_service.model.numbers import floors


def wait_share(wait_seconds: float, step_seconds: float) -> float:
    """Return the host's share of iteration time spent waiting, 0 to 1; 0 where there was no iteration.

    The wait for an epoch's first batch is start-up, and is in neither of the two.
    """
    iteration = wait_seconds + step_seconds
    return wait_seconds / iteration if iteration > 0 else 0.0


def device_wait_share(steps: int, idle_seconds: float, busy_seconds: float) -> float | None:
    """Return the share of its time that the device waited for a batch, 0 to 1.

    Returns:
        None for fewer sampled steps than `floors.MIN_DEVICE_STEPS`, or if they took no time.
    """
    whole = idle_seconds + busy_seconds
    return idle_seconds / whole if steps >= floors.MIN_DEVICE_STEPS and whole > 0 else None


def consumer_starvation(host: float, device: float | None) -> float:
    """Return the share that the consumer lost: the device's where it was measured, else the host's."""
    return host if device is None else device


def reported_starvation(host: float, device: float | None, uses_cuda: bool) -> float | None:
    """Return the share that may be called starvation; None where it is not known.

    Under CUDA the host's wait is no starvation: the device may have been busy with earlier steps meanwhile.
    """
    return None if uses_cuda and device is None else consumer_starvation(host, device)
