"""The gRPC channel to the sidecar: calls that end within their time, failures as values."""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from feedwater.relay import wire

# A sidecar that restarts is back in under a second; gRPC's own back-off starts at one and goes to 120.
RECONNECT_FIRST_MS = 100
RECONNECT_MOST_MS = 1000

OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MOST_MS),
    # The sidecar is on this machine: a proxy from the environment would take the call elsewhere.
    ("grpc.enable_http_proxy", 0),
    # Two channels of one process to one address would share a connection and its back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class Failure(enum.Enum):
    """Why a call gave no reply."""

    ABSENT = "nobody listens"
    SLOW = "no reply in time"
    UNKNOWN_LOADER = "the sidecar does not know the loader"
    REFUSED = "the sidecar refused the message"
    FOREIGN = "the sidecar speaks another version"
    BROKEN = "the sidecar failed"


FAILURES = {
    grpc.StatusCode.UNAVAILABLE: Failure.ABSENT,
    grpc.StatusCode.CANCELLED: Failure.ABSENT,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.SLOW,
    grpc.StatusCode.NOT_FOUND: Failure.UNKNOWN_LOADER,
    grpc.StatusCode.INVALID_ARGUMENT: Failure.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Failure.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Failure.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Failure.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Failure.FOREIGN,
}

Message = wire.RegisterMessage | wire.ReportMessage | wire.AppliedMessage | wire.RecommendationMessage


class Call(Protocol):
    """A call under way."""

    def done(self) -> bool:
        """Say whether it has ended."""

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""

    def outcome(self) -> object | Failure:
        """Return the reply, or why there is none, once it is done."""

    def cancel(self) -> None:
        """Give it up."""


class Channel:
    """The calls to one sidecar."""

    def __init__(self, address: str, wake: Callable[[], None]) -> None:
        self.address = address
        self._wake = wake
        self._channel = grpc.insecure_channel(target(address), options=OPTIONS)
        calls = wire.stub(self._channel)
        self._methods: dict[type[object], Callable[..., grpc.CallFuture[Any]]] = {
            wire.RegisterMessage: calls.RegisterLoader.future,
            wire.ReportMessage: calls.Report.future,
            wire.AppliedMessage: calls.ReportApplied.future,
            wire.RecommendationMessage: calls.GetRecommendation.future,
        }

    def start(self, message: Message, timeout_seconds: float, wait_for_ready: bool = False) -> Call:
        """Send ``message`` to the call that takes it; ``wake`` is called, in another thread, at its end."""
        start = self._methods[type(message)]
        future = start(message, timeout=timeout_seconds, wait_for_ready=wait_for_ready)
        future.add_done_callback(lambda _: self._wake())
        return _Call(future)

    def is_listening(self) -> bool:
        """Say whether somebody accepts connections at the address: microseconds, on this machine."""
        try:
            with _socket(self.address) as probe:
                return probe is not None
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


class _Call:
    def __init__(self, future: grpc.CallFuture[object]) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def wait(self, seconds: float) -> bool:
        try:
            self._future.result(timeout=max(0.0, seconds))
        except grpc.FutureTimeoutError:
            return False
        except (grpc.FutureCancelledError, grpc.RpcError):
            return True
        return True

    def outcome(self) -> object | Failure:
        try:
            return self._future.result(timeout=0)
        except grpc.FutureTimeoutError:
            return Failure.SLOW
        except grpc.FutureCancelledError:
            return Failure.ABSENT
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            return FAILURES.get(code, Failure.BROKEN) if code is not None else Failure.BROKEN

    def cancel(self) -> None:
        self._future.cancel()  # type: ignore[no-untyped-call]


class SidecarUnavailableError(Exception):
    """The sidecar did not answer."""


def read_state(address: str, timeout_seconds: float) -> wire.WatchReply:
    """Return the sidecar's state.

    Raises:
        SidecarUnavailableError: It did not answer in time; the message says what happened.
    """
    with grpc.insecure_channel(target(address), options=OPTIONS) as channel:
        try:
            replies = wire.stub(channel).Watch(wire.watch_message(), timeout=timeout_seconds)
            return next(iter(replies))
        except (grpc.RpcError, StopIteration) as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            raise SidecarUnavailableError(
                f"no answer from {address}: {code.name if code else error!r}"
            ) from error


def target(address: str) -> str:
    """Return gRPC's name of ``unix:/path`` or ``host:port``."""
    return address if address.startswith("unix:") else f"dns:///{address}"


def _socket(address: str) -> socket.socket:
    if address.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(0.05)
            made.connect(address.removeprefix("unix:"))
        except BaseException:
            made.close()
            raise
        return made
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=0.05)
