"""The sidecar's state, once or again and again, through its restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator

from feedwater.relay.channel import SidecarUnavailableError, read_state, watch_states
from feedwater.relay.views import LoaderView, PodView
from feedwater.relay.wire import pod_view

RETRY_SECONDS = 1.0
"""Between two attempts to reach a sidecar that went away: it restarts in less."""


def read_pod(address: str, timeout_seconds: float) -> PodView:
    """Return what the sidecar at ``address`` knows.

    Raises:
        SidecarUnavailableError: It did not answer in time.
    """
    return pod_view(read_state(address, timeout_seconds))


def read_loaders(address: str, timeout_seconds: float) -> list[LoaderView]:
    """Return the loaders that the sidecar at ``address`` knows.

    Raises:
        SidecarUnavailableError: It did not answer in time.
    """
    return list(read_pod(address, timeout_seconds).loaders)


def follow(
    address: str, interval_seconds: float, timeout_seconds: float
) -> Iterator[PodView | SidecarUnavailableError]:
    """Yield the state every ``interval_seconds``, and once each time that the sidecar is lost, why.

    Raises:
        SidecarUnavailableError: It did not answer at all, from the beginning.
    """
    was_there = is_there = False
    while True:
        try:
            for reply in watch_states(address, interval_seconds, timeout_seconds):
                was_there = is_there = True
                yield pod_view(reply)
        except SidecarUnavailableError as error:
            if not was_there:
                raise
            if is_there:
                yield error
            is_there = False
        time.sleep(RETRY_SECONDS)
