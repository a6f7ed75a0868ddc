"""Serve a directory over HTTP with an object store's latency: ``python -m docs.examples.demo.store DIR``.

Every GET is answered after 20 to 40 ms, however many are under way: an object store is slow for one reader
and fast for many.
"""

from __future__ import annotations

import asyncio
import pathlib
import random
import sys

LATENCY_SECONDS = (0.02, 0.04)
"""Time to the first byte of a small object within one region of a public cloud."""


class Store:
    """The objects of one directory, held in memory, and how they are served."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._objects = {file.name: file.read_bytes() for file in directory.glob("*.jpg")}
        self._latency = random.Random(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one GET and close the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await asyncio.sleep(self._latency.uniform(*LATENCY_SECONDS))
            writer.write(self._answer(head.split(" ", 2)[1].lstrip("/")))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, IndexError):
            # A reader that went away, or no HTTP: nobody to answer.
            pass
        finally:
            writer.close()

    def _answer(self, name: str) -> bytes:
        body = "\n".join(self._objects).encode() if not name else self._objects.get(name)
        status, body = ("404 Not Found", b"") if body is None else ("200 OK", body)
        return (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )


async def main(directory: pathlib.Path) -> None:
    """Serve the directory on a free port of loopback until killed; print the URL first."""
    server = await asyncio.start_server(Store(directory).serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1])))
