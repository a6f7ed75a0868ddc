"""Shares of waiting: the host's, the device's, and which of them counts."""

from __future__ import annotations

import pytest

from feedwater.loop.measure.device import MIN_STEPS
from feedwater_service.model.numbers import floors
from feedwater_service.model.starvation import (
    consumer_starvation,
    device_wait_share,
    reported_starvation,
    wait_share,
)


def test_wait_share_is_of_wait_and_step():
    """1 s of wait beside 3 s of steps is a quarter; without an iteration there is none."""
    assert wait_share(1.0, 3.0) == 0.25
    assert wait_share(0.0, 0.0) == 0.0


@pytest.mark.parametrize(("steps", "expected"), [(3, None), (4, 0.25)])
def test_device_wait_share_takes_four_sampled_steps(steps, expected):
    """1 s idle beside 3 s busy is a quarter, if four steps were sampled."""
    assert device_wait_share(steps, 1.0, 3.0) == expected


def test_device_counts_where_it_was_measured():
    """A device that waited 10 % outweighs a host that waited 90 %."""
    assert consumer_starvation(0.9, 0.1) == 0.1
    assert consumer_starvation(0.9, None) == 0.9


def test_host_wait_is_not_reported_as_starvation_under_cuda():
    """Without device samples nothing is known under CUDA; without CUDA the host is the consumer."""
    assert reported_starvation(0.9, None, uses_cuda=True) is None
    assert reported_starvation(0.9, None, uses_cuda=False) == 0.9
    assert reported_starvation(0.9, 0.1, uses_cuda=True) == 0.1


def test_trainer_and_sidecar_need_as_many_device_samples():
    """The share in the trainer's log appears where the sidecar's metric does."""
    assert MIN_STEPS == floors.MIN_DEVICE_STEPS
