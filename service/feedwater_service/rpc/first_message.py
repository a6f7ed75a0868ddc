"""A call holds something of the sidecar only once its message has come.

gRPC starts a call with its headers, and a call without a message has no deadline of its own: 1,024 of them,
from one client, kept all others out. So each call's message has a deadline here; of the calls without one the
oldest ends where there are too many, as an honest client sends its message with the headers; and the calls in
progress are counted from their message on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
import grpc.aio

from feedwater_service.errors import TooManyError

FIRST_MESSAGE_SECONDS = 5.0
"""Time from a call's headers to its message, which a client sends together: 20 times its deadline."""
MAX_UNREAD = 256
"""Calls without their message; for one more, the oldest ends. One for each of 256 trainers."""
MAX_CONCURRENT_CALLS = 1024
"""Calls in progress: four for each of 256 loaders."""

Request = TypeVar("Request")
Response = TypeVar("Response")

# grpc-stubs has neither the mark at the end of a stream nor handlers that are coroutines.
EOF = grpc.aio.EOF  # type: ignore[attr-defined]

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Request, Response]
    Handler = grpc.RpcMethodHandler[Request, Response]
    _Interceptor = grpc.aio.ServerInterceptor[object, object]
else:
    _Interceptor = grpc.aio.ServerInterceptor


class FirstMessageInterceptor(_Interceptor):
    """Gives the message of each call a deadline, and limits the calls in progress."""

    def __init__(self, rejected: Counter[str], first_message_seconds: float = FIRST_MESSAGE_SECONDS) -> None:
        self._rejected = rejected
        self._seconds = first_message_seconds
        self._unread: dict[asyncio.Future[object], None] = {}
        """The oldest first."""
        self._in_progress = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler[Request, Response]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler[Request, Response]:
        """Return a handler that reads the message itself: for gRPC one of a stream of requests."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.unary_unary is not None:
            unary = cast("Callable[..., Awaitable[Response]]", handler.unary_unary)
            return grpc.stream_unary_rpc_method_handler(
                self._unary(unary), handler.request_deserializer, handler.response_serializer
            )
        assert handler.unary_stream is not None
        stream = cast("Callable[..., AsyncIterator[Response]]", handler.unary_stream)
        written = cast("Callable[..., Awaitable[Response]]", handler.unary_stream)
        return grpc.stream_stream_rpc_method_handler(
            self._generator(stream) if inspect.isasyncgenfunction(stream) else self._unary(written),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, answer: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
        async def handle(_: object, context: Context[Request, Response]) -> Response:
            message = await self._read(context)
            try:
                return await answer(message, context)
            finally:
                self._in_progress -= 1

        return handle

    def _generator(
        self, answer: Callable[..., AsyncIterator[Response]]
    ) -> Callable[..., AsyncIterator[Response]]:
        async def handle(_: object, context: Context[Request, Response]) -> AsyncIterator[Response]:
            message = await self._read(context)
            try:
                async for response in answer(message, context):
                    yield response
            finally:
                self._in_progress -= 1

        return handle

    async def _read(self, context: Context[Request, Response]) -> Request:
        """Return the message of a call, and count the call as in progress; end the call if none comes."""
        if len(self._unread) >= MAX_UNREAD:
            next(iter(self._unread)).cancel()
        reading = asyncio.ensure_future(cast("Awaitable[object]", context.read()))
        self._unread[reading] = None
        try:
            await asyncio.wait({reading}, timeout=self._seconds)
        finally:
            self._unread.pop(reading, None)
            is_read = reading.done() and not reading.cancelled()
            reading.cancel()
        message = reading.result() if is_read else EOF
        if message is EOF:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the message of the call did not come")
        if self._in_progress >= MAX_CONCURRENT_CALLS:
            self._rejected[TooManyError.cause] += 1
            text = f"{self._in_progress} calls are in progress, the most that are served"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._in_progress += 1
        return cast("Request", message)
