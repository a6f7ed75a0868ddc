"""A small HTTP/1.1 server for scrapes and probes: GET and HEAD of a few fixed paths, nothing else.

Written by hand because the alternatives cost more: prometheus_client's server starts a thread per connection
without a limit; an ASGI server takes 15 MB of memory (of 64) and a tenth of a second of start-up at 250m.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from feedwater_service.web.hosts import ANY, Hosts

MAX_HEADER_BYTES = 8192
"""What nginx and Apache allow by default; Prometheus sends about 400 bytes."""
MAX_CONNECTIONS = 64
"""Scrapers, probes, and a few people with a browser. For one more, the longest idle one is closed."""
ANSWER_SECONDS = 1.0
"""Time for an answer in progress, before its connection is closed for another one or for a stop."""
READ_SECONDS = 5.0
"""Time for the header of a request, from its first byte or from the start of the connection."""
WRITE_SECONDS = 10.0
"""Time for a reader to take a whole answer: the default scrape timeout of Prometheus."""
IDLE_SECONDS = 75.0
"""Time between two requests on one connection: longer than the usual scrape interval of 60 s."""
ANY_HOST = Hosts(frozenset({ANY}))
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The request as a handler gets it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    version: str = "HTTP/1.1"

    def lists(self, header: str, value: str) -> bool:
        """Return whether a header lists a value, with its parameters: ``gzip;q=0`` is not ``gzip``."""
        return value in [listed.strip() for listed in self.headers.get(header, "").split(",")]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response of a handler."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    """Replace the default ones of the same name."""


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class HttpServer:
    """Serves fixed paths."""

    def __init__(
        self, routes: Mapping[str, Handler], hosts: Hosts = ANY_HOST, open_paths: Collection[str] = ()
    ) -> None:
        """Make it; it listens from `start` on.

        Args:
            routes: Handlers by path.
            hosts: The names that requests may call it by.
            open_paths: Paths that are answered under any name, as they tell nothing.
        """
        self._routes = routes
        self._hosts = hosts
        self._open_paths = frozenset(open_paths)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], None] = {}
        """The longest idle one first."""
        self._answering: dict[asyncio.Task[None], float] = {}
        """Start of the answer, by the loop's clock."""

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which the kernel picks where ``port`` is 0.

        Raises:
            OSError: The address cannot be bound.
        """
        listener = _listener(host, port)
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_HEADER_BYTES)
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, wait for answers in progress, and close all other connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            if task not in self._answering:
                task.cancel()
        if self._answering:
            await asyncio.wait(self._answering, timeout=ANSWER_SECONDS)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            self._to_close().cancel()
        self._connections[task] = None
        # Without a write buffer, drain() returns only when the reader has taken everything.
        writer.transport.set_write_buffer_limits(high=0)
        patience = READ_SECONDS
        try:
            while await self._exchange(reader, writer, patience):
                patience = IDLE_SECONDS
                self._connections[task] = self._connections.pop(task)
        except (asyncio.TimeoutError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._connections.pop(task, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float
    ) -> bool:
        """Answer one request; return whether another may follow."""
        try:
            head = await _read_head(reader, patience)
        except asyncio.LimitOverrunError:
            await _write(writer, _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), body=True, keep=False)
            return False
        if head is None:
            return False
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._answering[task] = loop.time()
        try:
            return await self._respond(head, writer)
        finally:
            del self._answering[task]

    async def _respond(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        request = _parse(head)
        if request is None:
            await _write(writer, _plain(HTTPStatus.BAD_REQUEST), body=True, keep=False)
            return False
        # Bodies are not read, so a connection cannot be reused after a request with one.
        keep = _keeps(request) and self._server is not None and self._server.is_serving()
        await _write(writer, await self._answer(request), body=request.method != "HEAD", keep=keep)
        return keep

    def _to_close(self) -> asyncio.Task[None]:
        """Return the connection to close for a new one: the longest idle, or else one answered slowly."""
        recent = asyncio.get_running_loop().time() - ANSWER_SECONDS
        oldest = next(iter(self._connections))
        return next((t for t in self._connections if self._answering.get(t, 0.0) < recent), oldest)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        handler = self._routes.get(request.path)
        if handler is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if request.path not in self._open_paths and not self._hosts.accept(request.headers.get("host")):
            return _plain(HTTPStatus.MISDIRECTED_REQUEST)
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        try:
            return await handler(request)
        except Exception:
            log.exception("%s failed", request.path)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _listener(host: str, port: int) -> socket.socket:
    if host.startswith("fd:") and host[3:].isdecimal():
        return socket.socket(fileno=int(host[3:]))
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    if host == "::":
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


async def _read_head(reader: asyncio.StreamReader, patience: float) -> bytes | None:
    """Return a request's header, None at the end of the connection."""
    try:
        first = await asyncio.wait_for(reader.readexactly(1), patience)
        return first + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_SECONDS)
    except asyncio.IncompleteReadError:
        return None


def _parse(head: bytes) -> HttpRequest | None:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1") or not words[1].startswith("/"):
        return None
    headers = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            return None
        headers[name.lower()] = value.strip()
    return HttpRequest(words[0], words[1].partition("?")[0], headers, words[2])


def _keeps(request: HttpRequest) -> bool:
    has_body = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
    wish = request.headers.get("connection", "").lower()
    return not has_body and ("keep-alive" in wish if request.version == "HTTP/1.0" else "close" not in wish)


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(f"{status.value} {status.phrase}\n".encode(), status=status, headers=headers or {})


async def _write(writer: asyncio.StreamWriter, response: HttpResponse, *, body: bool, keep: bool) -> None:
    headers = {"Content-Type": response.content_type, **_SECURITY, **response.headers}
    if response.status != HTTPStatus.NOT_MODIFIED:
        # With 304 it would be the length of the content that the reader has already.
        headers["Content-Length"] = str(len(response.body))
    headers["Connection"] = "keep-alive" if keep else "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n{lines}\r\n"
    writer.write(head.encode("latin-1") + (response.body if body else b""))
    await asyncio.wait_for(writer.drain(), WRITE_SECONDS)
