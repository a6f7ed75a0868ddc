"""The gRPC channel to the sidecar: calls with a deadline, whose failures are values."""

from __future__ import annotations

import enum
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

import grpc

from feedwater.relay import wire

# A sidecar restarts in under a second; gRPC's default back-off starts at 1 s and rises to 120 s.
RECONNECT_FIRST_MS = 100
RECONNECT_MOST_MS = 1000

OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MOST_MS),
    # The sidecar is on this machine; a proxy named in the environment would be asked for it.
    ("grpc.enable_http_proxy", 0),
    # Otherwise two channels of one process to one address share a connection and its back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

# The state of 256 loaders is larger than gRPC's default of 4 MiB.
UNBOUNDED_REPLY = ("grpc.max_receive_message_length", -1)


class Failure(enum.Enum):
    """Why a call gave no reply."""

    UNAVAILABLE = "nobody listens"
    DEADLINE_EXCEEDED = "no reply in time"
    UNKNOWN_LOADER = "the sidecar does not know the loader"
    REFUSED = "the sidecar refused the message"
    BUSY = "the sidecar has more calls or loaders than it takes"
    VERSION_MISMATCH = "the sidecar speaks another version"
    INTERNAL = "the sidecar failed"


FAILURES = {
    grpc.StatusCode.UNAVAILABLE: Failure.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Failure.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND: Failure.UNKNOWN_LOADER,
    grpc.StatusCode.INVALID_ARGUMENT: Failure.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Failure.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Failure.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Failure.REFUSED,
    # Of the sidecar: too many calls, loaders or bytes in the message.
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.BUSY,
    grpc.StatusCode.UNIMPLEMENTED: Failure.VERSION_MISMATCH,
}

Request = (
    wire.RegisterLoaderRequest
    | wire.ReportRequest
    | wire.ReportAppliedRequest
    | wire.GetRecommendationRequest
)


class Call:
    """One call: pending, then ended with a reply or a failure."""

    def __init__(self, message: Request, timeout_seconds: float, wait_for_ready: bool) -> None:
        self.message = message
        self.timeout_seconds = timeout_seconds
        self.wait_for_ready = wait_for_ready
        self._done = threading.Event()
        self._outcome: object | Failure = Failure.DEADLINE_EXCEEDED

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return False if it did not end in time."""
        return self._done.wait(max(0.0, seconds))

    def outcome(self) -> object | Failure:
        """Return the reply or the failure; `Failure.DEADLINE_EXCEEDED` while the call is pending."""
        return self._outcome

    def end(self, outcome: object | Failure) -> None:
        """End it with a reply or a failure."""
        self._outcome = outcome
        self._done.set()


class Channel:
    """Makes the calls to one sidecar, one after another, in its own thread.

    A blocking call there costs 1.0 ms of CPU time; gRPC's futures, which start a thread each, 1.5 ms.
    """

    def __init__(self, address: str, wake: Callable[[], None]) -> None:
        self.address = address
        self._wake = wake
        self._queue: queue.SimpleQueue[Call] = queue.SimpleQueue()
        calls = wire.stub(grpc.insecure_channel(target(address), options=OPTIONS))
        self._methods: dict[type[object], Callable[..., object]] = {
            wire.RegisterLoaderRequest: calls.RegisterLoader,
            wire.ReportRequest: calls.Report,
            wire.ReportAppliedRequest: calls.ReportApplied,
            wire.GetRecommendationRequest: calls.GetRecommendation,
        }
        threading.Thread(target=self._serve, name="feedwater-calls", daemon=True).start()

    def start(self, message: Request, timeout_seconds: float, wait_for_ready: bool = False) -> Call:
        """Start the call that takes ``message``; at its end ``wake`` is called in another thread.

        Args:
            message: The request.
            timeout_seconds: Deadline, after which the call ends as `Failure.DEADLINE_EXCEEDED`.
            wait_for_ready: Where there is no connection, wait for one instead of failing at once.
        """
        call = Call(message, timeout_seconds, wait_for_ready)
        self._queue.put(call)
        return call

    def is_listening(self) -> bool:
        """Return whether a server accepts connections at the address; takes microseconds on this machine."""
        try:
            with _socket(self.address):
                return True
        except (OSError, ValueError):
            return False

    def _serve(self) -> None:
        while True:
            call = self._queue.get()
            call.end(self._perform(call))
            self._wake()

    def _perform(self, call: Call) -> object | Failure:
        method = self._methods[type(call.message)]
        try:
            return method(call.message, timeout=call.timeout_seconds, wait_for_ready=call.wait_for_ready)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            return FAILURES.get(code, Failure.INTERNAL)
        except Exception:
            # A message that cannot be serialised, or a channel in an unexpected state.
            return Failure.INTERNAL


class SidecarUnavailableError(Exception):
    """The sidecar did not answer."""


def read_state(address: str, timeout_seconds: float) -> wire.WatchResponse:
    """Return the sidecar's state.

    Raises:
        SidecarUnavailableError: It did not answer in time; the message says what happened.
    """
    for reply in watch_states(address, 0.0, timeout_seconds):
        return reply
    raise SidecarUnavailableError(f"no answer from {address}")


def watch_states(
    address: str, interval_seconds: float, timeout_seconds: float
) -> Iterator[wire.WatchResponse]:
    """Yield the sidecar's state at once, and every ``interval_seconds`` if that is not 0.

    Raises:
        SidecarUnavailableError: It ended the stream, or was silent for ``timeout_seconds`` longer than that.
    """
    inbox: queue.SimpleQueue[wire.WatchResponse | str] = queue.SimpleQueue()
    with grpc.insecure_channel(target(address), options=[*OPTIONS, UNBOUNDED_REPLY]) as channel:
        call = wire.stub(channel).Watch(wire.watch_request(interval_seconds))
        threading.Thread(target=_receive_all, args=(call, inbox), name="feedwater-watch", daemon=True).start()
        try:
            while True:
                reply = inbox.get(timeout=interval_seconds + timeout_seconds)
                if isinstance(reply, str):
                    raise SidecarUnavailableError(f"no answer from {address}: {reply}")
                yield reply
        except queue.Empty:
            raise SidecarUnavailableError(f"no answer from {address} in time") from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]


def _receive_all(
    call: Iterable[wire.WatchResponse], inbox: queue.SimpleQueue[wire.WatchResponse | str]
) -> None:
    # In its own thread: the main one must stay free for Ctrl-C and for a timeout.
    try:
        for reply in call:
            inbox.put(reply)
        inbox.put("it ended the stream")
    except grpc.RpcError as error:
        inbox.put(_reason(error))


def _reason(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    if code in (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return "nobody is there"
    return f"{code.name}, {(error.details() or '')[:100]}"


def target(address: str) -> str:
    """Return the gRPC target of ``unix:/path`` or ``host:port``."""
    return address if address.startswith("unix:") else f"dns:///{address}"


def _socket(address: str) -> socket.socket:
    if address.startswith("unix:"):
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.settimeout(0.05)
            unix.connect(address.removeprefix("unix:"))
        except BaseException:
            unix.close()
            raise
        return unix
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=0.05)
