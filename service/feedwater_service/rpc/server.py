"""The gRPC server: our calls on a Unix socket or loopback TCP, standard health, optional reflection."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from resource import RLIMIT_NOFILE, getrlimit
from typing import TYPE_CHECKING, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from feedwater_service import errors
from feedwater_service.rpc import wire
from feedwater_service.rpc.calls import Calls
from feedwater_service.rpc.first_message import FirstMessageInterceptor

RECEIVE_BYTES = 2 * wire.MAX_MESSAGE_BYTES
"""Larger messages are refused by gRPC and not counted; smaller ones above the limit we refuse and count."""
STREAMS_PER_CONNECTION = 64
"""Calls at once of one connection, which is one client's: it has one or two."""
HANDSHAKE_SECONDS = 3.0
"""Time for a new connection to speak HTTP/2."""
IDLE_SECONDS = 120.0
"""Time without a call after which a connection is closed; clients report each 2 to 10 s, and connect again
by themselves."""
STOP_SECONDS = 0.5
"""Time that calls in progress have to end; a report takes milliseconds."""

_STATUS = {
    errors.MalformedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OversizedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnknownLoaderError: grpc.StatusCode.NOT_FOUND,
    errors.TooManyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]

log = logging.getLogger(__name__)


class GrpcServer:
    """The server and its addresses."""

    def __init__(self, calls: Calls, rejected: Counter[str], *, reflection: bool) -> None:
        self._calls = calls
        self._rejected = rejected
        # grpc-stubs has the blocking servicer only.
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        # Without SO_REUSEPORT a second server on a TCP port is refused instead of taking half of the calls.
        options = [
            ("grpc.max_receive_message_length", RECEIVE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
            ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
            # The other half of the descriptors is for HTTP, the state and its checkpoints.
            ("grpc.max_allowed_incoming_connections", getrlimit(RLIMIT_NOFILE)[0] // 2),
        ]
        self._server = grpc.aio.server(options=options, interceptors=[FirstMessageInterceptor(rejected)])
        self._server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection:
            _reflect(self._server)

    def listen(self, address: str) -> int:
        """Bind ``unix:/path`` or ``host:port``, and return the port.

        Raises:
            UnusableError: The address cannot be bound.
        """
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise errors.UnusableError(f"{address}: cannot be bound: {error}") from None

    async def start(self) -> None:
        """Serve."""
        await self._server.start()
        await self._health.set(wire.SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Refuse new calls and let those in progress end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(STOP_SECONDS)

    def _handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        calls = self._calls
        unary = {
            "RegisterLoader": self._sync_handler(calls.register_loader),
            "Report": self._sync_handler(calls.report),
            "GetRecommendation": self._async_handler(calls.get_recommendation),
            "ReportApplied": self._sync_handler(calls.report_applied),
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in unary.items()}
        handlers["Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        return grpc.method_handlers_generic_handler(wire.SERVICE, handlers)

    def _sync_handler(self, call: Callable[[bytes], bytes]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            try:
                return call(data)
            except Exception as error:
                await self._refuse(context, error)

        return handle

    def _async_handler(
        self, call: Callable[[bytes], Awaitable[bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            try:
                return await call(data)
            except Exception as error:
                await self._refuse(context, error)

        return handle

    async def _watch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            async for message in self._calls.watch(data):
                yield message
        except Exception as error:
            await self._refuse(context, error)

    async def _refuse(self, context: Context, error: Exception) -> NoReturn:
        """Abort a call with the status of an error; this is the only mapping of our errors to gRPC's."""
        if isinstance(error, errors.RefusedError):
            self._rejected[error.cause] += 1
            log.debug("refused: %s", error)
            await context.abort(_STATUS[type(error)], str(error)[:500])
        log.error("a call failed", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "the sidecar failed; its log says how")
        raise AssertionError("abort raises")


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
