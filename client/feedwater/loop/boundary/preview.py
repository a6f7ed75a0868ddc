"""Requests recommendations before the end of a long or endless epoch. The loop never waits for them."""

from __future__ import annotations

from time import perf_counter_ns

from feedwater.loop.boundary import answers, epoch_log, epochs, registration
from feedwater.loop.measure.probe import Probe
from feedwater.loop.watched import WatchedLoader
from feedwater.values import Answer, LoaderSettings, Mode, Transport

MIN_REMAINING_NS = 30 * 10**9
"""Remaining time of an epoch from which a preview is requested; elapsed time where its length is unknown."""
ANSWER_TIMEOUT_NS = 5 * 10**9
"""Time after which a request is abandoned; the relay waits less for the sidecar."""
RETRY_NS = 10**9
"""Time until the next request where there was no answer: the model takes a second at a quarter of a core."""
MAX_INTERVAL_NS = 600 * 10**9
"""Longest time between two previews; else as long as the epoch has run until the last one."""


class Preview:
    """Requests and logs recommendations for the epochs of one iterator before they end."""

    def __init__(self, watched: WatchedLoader) -> None:
        self._watched = watched
        self._epoch = -1
        self._asked_ns = 0
        """When the last request was sent, by ``perf_counter_ns``; 0 while no answer is expected."""
        self._due_ns = 0
        """When the next request is due."""

    def update(self, probe: Probe) -> None:
        """Send a request if one is due, or take its answer. Called some times a second after 100 batches."""
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
        recording = self._watched.recording
        answer = transport.take_preview(recording.key)
        if answer is None and now_ns - self._asked_ns < ANSWER_TIMEOUT_NS:
            return
        self._asked_ns, self._due_ns = 0, now_ns + RETRY_NS
        why = answers.refusal(answer, recording.settings or LoaderSettings(0)) if answer is not None else None
        if why is not None:
            self._watched.history.count_refused(why.cause)
            epoch_log.log_refused(self._watched, why)
            return
        if answer is not None and answer.recommendation is not None:
            self._due_ns = now_ns + min(MAX_INTERVAL_NS, now_ns - probe.asked_ns)
            self._log(probe, answer, now_ns)

    def _log(self, probe: Probe, answer: Answer, now_ns: int) -> None:
        assert answer.recommendation is not None
        self._watched.history.keep_recommendation(answer.recommendation)
        summary = epochs.so_far(self._watched, probe, now_ns)
        epoch_log.log_preview(self._watched, summary, answer.recommendation)


def _is_long(watched: WatchedLoader, probe: Probe, now_ns: int) -> bool:
    elapsed_ns = now_ns - probe.asked_ns
    if watched.dataset_kind == "map":
        # Remaining batches at the pace so far; a sampler without a length never ends.
        remaining = probe.roll_over_at - probe.head
        return remaining * elapsed_ns >= MIN_REMAINING_NS * probe.batches
    return elapsed_ns >= MIN_REMAINING_NS
