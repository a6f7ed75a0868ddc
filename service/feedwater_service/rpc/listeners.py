"""The addresses that clients connect to: a gRPC server for each, so that one can be made again alone.

Every user of the shared volume may remove the socket's file, or put another in its place. The server would go
on with the clients that it has, and no new one would ever find it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from feedwater_service.errors import UnusableError
from feedwater_service.rpc.server import GrpcServer
from feedwater_service.store.locks import open_to_the_pod, remove_socket

log = logging.getLogger(__name__)


class Listeners:
    """The Unix socket and the loopback address, each with its server."""

    def __init__(self, make_server: Callable[[], GrpcServer], socket: str, tcp: str) -> None:
        """Bind nothing yet.

        Args:
            make_server: Makes a server with no address.
            socket: Path of the Unix socket; empty is none.
            tcp: ``host:port``; empty is none.
        """
        self._make_server = make_server
        self._path = Path(socket) if socket else None
        self._tcp = tcp
        self._unix_server: GrpcServer | None = None
        self._tcp_server: GrpcServer | None = None
        self._bound: tuple[int, int] | None = None
        """Device and inode of the socket's file as we made it."""

    async def start(self) -> list[str]:
        """Serve, and return the addresses.

        Raises:
            UnusableError: One cannot be bound; none is served then.
        """
        listening = []
        try:
            if self._tcp:
                self._tcp_server, port = await self._serve(self._tcp)
                listening.append(f"{self._tcp.rpartition(':')[0]}:{port}")
            if self._path is not None:
                await self._serve_socket(self._path)
                listening.insert(0, f"unix:{self._path}")
        except UnusableError:
            await self.stop()
            raise
        return listening

    async def stop(self) -> None:
        """Refuse new calls and let those in progress end."""
        servers, self._unix_server, self._tcp_server = (self._unix_server, self._tcp_server), None, None
        for server in servers:
            if server is not None:
                await server.stop()

    def has_socket(self) -> bool:
        """Return whether the socket's file is the one that we serve, or there is none to serve."""
        return self._path is None or (self._bound is not None and self._bound == _identity(self._path))

    async def restore_socket(self) -> None:
        """Make the socket's file again if it is not the one that we serve; its clients connect again."""
        if self.has_socket() or self._path is None:
            return
        log.warning("%s was removed or replaced: it is made again", self._path)
        server, self._unix_server, self._bound = self._unix_server, None, None
        if server is not None:
            # First: a server that ends removes the file of its socket, whoever made that.
            await server.stop()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            remove_socket(self._path)
            await self._serve_socket(self._path)
        except (UnusableError, OSError) as error:
            log.error("clients cannot connect: %s", error)

    async def _serve_socket(self, path: Path) -> None:
        self._unix_server, _ = await self._serve(f"unix:{path}")
        open_to_the_pod(path)
        self._bound = _identity(path)

    async def _serve(self, address: str) -> tuple[GrpcServer, int]:
        server = self._make_server()
        try:
            port = server.listen(address)
        except UnusableError:
            # A server that is neither started nor stopped sometimes keeps the process from exiting.
            await server.start()
            await server.stop()
            raise
        await server.start()
        return server, port


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
