"""Switches of the interpreter lock for each delivery: the one quantity that only a simulation shows.

How long workers that compute in Python delay deliveries depends on how much of their load runs outside the
interpreter lock (decoding a JPEG does, a Python loop does not). The epoch that was measured is simulated with
several numbers of switches; the number whose mean delay is nearest to the measured one is taken.
"""

from __future__ import annotations

from dataclasses import replace

from feedwater_service.model.fit.transport import deliveries_of, mean_delay, simulated_deliveries
from feedwater_service.model.numbers import floors, grids
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload, simulate_batches
from feedwater_service.model.types import Epoch


def with_gil_switches(work: Workload, epoch: Epoch, machine: Machine) -> Workload:
    """Return the work with the number of lock switches that explains the epoch's deliveries best."""
    deliveries = deliveries_of(epoch)
    if len(deliveries) < floors.MIN_SAMPLES:
        return replace(work, gil_switches=floors.ASSUMED_GIL_SWITCHES)
    wanted = mean_delay(deliveries)
    tried = [replace(work, gil_switches=count) for count in grids.GIL_SWITCHES]
    return min(tried, key=lambda w: abs(_delay(w, epoch, machine) - wanted))


def _delay(work: Workload, epoch: Epoch, machine: Machine) -> float:
    known = epoch.batches if epoch.parts else len(epoch.waits)
    batches = max(2, min(known, grids.FIT_WINDOW // (1 + len(work.colocation.peers))))
    return mean_delay(simulated_deliveries(simulate_batches(work, epoch.settings, machine, batches, batches)))
