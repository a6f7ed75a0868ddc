"""The one quantity that no signal shows by itself, found by simulating the epoch that was measured.

How long hand-overs are held up by workers that compute in Python depends on how much of their load runs
outside the interpreter lock (decoding a JPEG does, a Python loop does not). It is the value at which the
simulated delay between a batch's making and its delivery equals the measured one.
"""

from __future__ import annotations

from dataclasses import replace

from feedwater_service.model.bucket import Machine
from feedwater_service.model.handover import handed_over, handed_over_in, mean_delay
from feedwater_service.model.simulate import Workload, run_epoch
from feedwater_service.model.values import Epoch

HOLDS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)
"""Seconds tried: none, and up to ten switch intervals; passing one tensor's descriptor takes several."""
ASSUMED_HOLD = 0.005
"""Where no hand-over was seen: one switch interval."""
WINDOW = 200
"""Batches simulated for each."""


def with_hold(work: Workload, epoch: Epoch, machine: Machine) -> Workload:
    """Return the work with the hold that explains the epoch's hand-overs best."""
    passages = handed_over(epoch)
    if len(passages) < 10:
        return replace(work, hold_seconds=ASSUMED_HOLD)
    wanted = mean_delay(passages)
    tried = [replace(work, hold_seconds=hold) for hold in HOLDS]
    return min(tried, key=lambda w: abs(_delay(w, epoch, machine) - wanted))


def _delay(work: Workload, epoch: Epoch, machine: Machine) -> float:
    batches = max(2, min(len(epoch.waits), WINDOW))
    return mean_delay(handed_over_in(run_epoch(work, epoch.settings, machine, batches, batches)))
