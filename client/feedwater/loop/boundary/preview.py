"""What a long or endless epoch shows before its end: asked for in the loop, and never waited for."""

from __future__ import annotations

from time import perf_counter_ns

from feedwater.loop.boundary import epoch_log, epochs, registration
from feedwater.loop.measure.probe import Probe
from feedwater.loop.watched import WatchedLoader
from feedwater.values import Answer, Mode, Transport

LONG_NS = 30 * 10**9
"""Left of an epoch, or past of one whose length is not known, from which its end is not waited for."""
ANSWER_NS = 5 * 10**9
"""After which an answer is given up: the relay waits for the sidecar for less."""
AGAIN_NS = 10**9
"""Until the next question where there was no answer yet: the model takes a second at a quarter of a core."""
RENEW_NS = 600 * 10**9
"""Between two answers at most; at least as long as the epoch took until the first."""


class Preview:
    """Asks what the epochs of one iterator show before their end, and logs the answers."""

    def __init__(self, watched: WatchedLoader) -> None:
        self._watched = watched
        self._epoch = -1
        self._asked_ns = 0
        """When it was asked, by ``perf_counter_ns``; 0 while no answer is awaited."""
        self._due_ns = 0
        """When it is to be asked next."""

    def update(self, probe: Probe) -> None:
        """Ask, or take the answer; called some times a second once an epoch has 100 batches."""
        watched, recording = self._watched, self._watched.recording
        if recording.transport is None or registration.effective_mode(watched).rank < Mode.ADVISE.rank:
            return
        if recording.epoch != self._epoch:
            self._epoch, self._asked_ns, self._due_ns = recording.epoch, 0, 0
        now_ns = perf_counter_ns()
        if self._asked_ns:
            self._take(probe, recording.transport, now_ns)
        elif now_ns >= self._due_ns and _is_long(watched, probe, now_ns):
            self._asked_ns = now_ns
            recording.transport.request_preview(recording.key, recording.epoch)

    def _take(self, probe: Probe, transport: Transport, now_ns: int) -> None:
        answer = transport.take_preview(self._watched.recording.key)
        if answer is None and now_ns - self._asked_ns < ANSWER_NS:
            return
        self._asked_ns, self._due_ns = 0, now_ns + AGAIN_NS
        if answer is not None and answer.recommendation is not None:
            self._due_ns = now_ns + min(RENEW_NS, now_ns - probe.asked_ns)
            self._log(probe, answer, now_ns)

    def _log(self, probe: Probe, answer: Answer, now_ns: int) -> None:
        assert answer.recommendation is not None
        self._watched.history.keep_recommendation(answer.recommendation)
        summary = epochs.so_far(self._watched, probe, now_ns)
        epoch_log.log_preview(self._watched, summary, answer.recommendation)


def _is_long(watched: WatchedLoader, probe: Probe, now_ns: int) -> bool:
    past_ns = now_ns - probe.asked_ns
    if watched.dataset_kind == "map":
        # Without a length its sampler never ends; with one it is known how long the rest takes.
        left = probe.roll_over_at - probe.head
        return left * past_ns >= LONG_NS * probe.batches
    return past_ns >= LONG_NS
