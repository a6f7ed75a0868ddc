"""The one quantity that no signal shows by itself, found by simulating the epoch that was measured.

How long hand-overs are held up by workers that compute in Python depends on how much of their load runs
outside the interpreter lock (decoding a JPEG does, a Python loop does not). Found is the number of turns for
which the simulated delay between a batch's making and its delivery comes nearest to the measured one.
"""

from __future__ import annotations

from dataclasses import replace

from feedwater_service.model.fit.transport import handed_over, handed_over_in, mean_delay
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload, run_epoch
from feedwater_service.model.types import Epoch

TURNS = (0, 1, 2, 3, 5, 8)
"""Tried: passing one tensor's descriptor takes about five answers, fewer if the lock is free now and then."""
ASSUMED_TURNS = 2
"""Where no hand-over was seen."""
WINDOW = 200
"""Batches simulated for each."""


def with_turns(work: Workload, epoch: Epoch, machine: Machine) -> Workload:
    """Return the work with the turns that explain the epoch's hand-overs best."""
    passages = handed_over(epoch)
    if len(passages) < 10:
        return replace(work, lock_turns=ASSUMED_TURNS)
    wanted = mean_delay(passages)
    tried = [replace(work, lock_turns=turns) for turns in TURNS]
    return min(tried, key=lambda w: abs(_delay(w, epoch, machine) - wanted))


def _delay(work: Workload, epoch: Epoch, machine: Machine) -> float:
    known = epoch.batches if epoch.parts else len(epoch.waits)
    batches = max(2, min(known, WINDOW // (1 + len(work.company.peers))))
    return mean_delay(handed_over_in(run_epoch(work, epoch.settings, machine, batches, batches)))
