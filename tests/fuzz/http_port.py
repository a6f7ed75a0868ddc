"""The HTTP port under any bytes: complete answers of known form, no 5xx, and nothing in the log.

The bytes are a connection: requests from parts, damaged and in chunks, to a real server on a real socket.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from typing import Any

from feedwater_service.web import static
from feedwater_service.web.hosts import hosts_of
from feedwater_service.web.http import HttpRequest, HttpResponse, HttpServer
from tests.fuzz.draw import Draw, damaged

PARTS = (
    b"GET /healthz HTTP/1.1\r\n",
    b"\r\n",
    b"Host: localhost\r\n",
    b"HEAD / HTTP/1.1\r\n",
    b"GET /page.js HTTP/1.0\r\n",
    b"POST /healthz HTTP/1.1\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Accept-Encoding: gzip;q=0, gzip\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"If-None-Match: *\r\n",
    b"Host: [::1]:9464\r\n",
    b"Host: evil.example, localhost\r\n",
    b" folded\r\n",
    b"X: " + b"a" * 5000 + b"\r\n",
    b"\n",
    b"\r",
    b"GET http://x/healthz HTTP/1.1\r\n",
    b"GET /%2e%2e/healthz?a=b#c HTTP/1.1\r\n",
)
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n((?:[A-Za-z-]+: [ -~]*\r\n)+)\r\n")
SECONDS = 2.0
"""An answer to a connection whose end was sent takes a millisecond."""
BODY = b"ok\n"


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


async def _healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse(BODY)


_LOOP = asyncio.new_event_loop()
_LOG = _Messages()
_SERVER = HttpServer({"/healthz": _healthz, **static.routes()}, hosts_of(""), ("/healthz",))
_PORT: list[int] = []


def check(data: bytes) -> None:
    """Run one test case.

    Raises:
        AssertionError: An answer is no HTTP, a 5xx, missing within two seconds, or a warning was logged.
    """
    if not _PORT:
        logging.getLogger().addHandler(_LOG)
        _LOOP.set_exception_handler(_note)
        _PORT.append(_LOOP.run_until_complete(_SERVER.start("127.0.0.1", 0)))
    sent = _connection(Draw(data))
    received = _LOOP.run_until_complete(asyncio.wait_for(_talk(sent), SECONDS))
    said, _LOG.said = _LOG.said, []
    assert said == []
    _check_answers(received, b"".join(sent))


def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _LOG.said.append(f"{context['message']}: {context.get('exception')!r}")


def _connection(draw: Draw) -> list[bytes]:
    sent = b""
    for _ in range(40):
        if not draw:
            break
        kind = draw.byte()
        sent += draw.take(kind % 16) if kind >= 224 else PARTS[kind % len(PARTS)]
    if draw.byte() % 4 == 3:
        sent = damaged(sent, draw)
    middle = draw.place(len(sent) + 1)
    return [sent[:middle], sent[middle:]]


async def _talk(chunks: list[bytes]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", _PORT[0])
    # A closed connection leaves no port in TIME_WAIT: thousands a second would use them up.
    socket_ = writer.get_extra_info("socket")
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    received = b""
    try:
        for chunk in chunks:
            writer.write(chunk)
            await asyncio.sleep(0)
        writer.write_eof()
        while part := await reader.read(1 << 16):
            received += part
    except ConnectionError:
        # What the server did not read resets the connection, which may cut the answer.
        return b""
    finally:
        writer.transport.abort()
    return received


def _check_answers(received: bytes, sent: bytes) -> None:
    count = 0
    while received:
        found = ANSWER.match(received)
        assert found is not None, received[:200]
        status = int(found[1])
        headers = dict(line.split(b": ", 1) for line in found[2].lower().removesuffix(b"\r\n").split(b"\r\n"))
        assert status < 500
        assert headers[b"connection"] in (b"close", b"keep-alive")
        rest = received[found.end() :]
        length = int(headers.get(b"content-length", b"0"))
        # The answer to HEAD states the length of a body that does not follow.
        received = rest if rest.startswith(b"HTTP/1.1 ") or not rest else rest[length:]
        count += 1
    assert count <= 1 + sent.count(b"\r\n\r\n")
