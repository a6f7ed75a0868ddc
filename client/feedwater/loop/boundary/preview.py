"""What a long or endless epoch says before its end: asked for in the loop, and never waited for."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from feedwater.loop.boundary import epoch_log, epochs, registration
from feedwater.values import Mode

if TYPE_CHECKING:
    from feedwater.loop.measure.probe import Probe
    from feedwater.loop.watched import Mark

LONG_NS = 30 * 10**9
"""Left of an epoch, or past of one whose length is not known, from which its end is not waited for."""
ANSWER_NS = 5 * 10**9
"""After which an answer is given up: the relay waits for the sidecar for less."""
AGAIN_NS = 10**9
"""Until the next question where there was no answer yet: the model takes a second at a quarter of a core."""
RENEW_NS = 600 * 10**9
"""Between two answers at most; at least as long as the epoch took until the first."""


def look(mark: Mark, probe: Probe) -> None:
    """Ask what the running epoch says, or take the answer: called some times a second after 100 batches."""
    if mark.transport is None or registration.effective_mode(mark).rank < Mode.ADVISE.rank:
        return
    now_ns, state = perf_counter_ns(), mark.preview
    if not state.asked_ns:
        if now_ns >= state.due_ns and _is_long(mark, probe, now_ns):
            state.asked_ns = now_ns
            mark.transport.request_preview(mark.key, mark.epoch)
        return
    answer = mark.transport.take_preview(mark.key)
    if answer is None and now_ns - state.asked_ns < ANSWER_NS:
        return
    state.asked_ns, state.due_ns = 0, now_ns + AGAIN_NS
    if answer is not None and answer.recommendation is not None:
        state.due_ns = now_ns + min(RENEW_NS, now_ns - probe.asked_ns)
        mark.recommendation = answer.recommendation
        epoch_log.log_preview(mark, epochs.so_far(mark, probe, now_ns), answer.recommendation)


def _is_long(mark: Mark, probe: Probe, now_ns: int) -> bool:
    past_ns = now_ns - probe.asked_ns
    if mark.dataset_kind == "map":
        # Without a length its sampler never ends; with one it is known how long the rest takes.
        left = probe.roll_at - probe.head
        return left * past_ns >= LONG_NS * probe.batches
    return past_ns >= LONG_NS
