"""The composition root: makes the parts of the sidecar, connects them, starts and stops them."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import platform
import signal
from collections.abc import Iterator
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, perf_counter, time
from typing import TYPE_CHECKING

from feedwater import __version__
from feedwater_service import model
from feedwater_service.errors import UnusableError
from feedwater_service.recommender import Model, Recommender
from feedwater_service.rpc.calls import Calls, record_decision, restore
from feedwater_service.rpc.listeners import Listeners
from feedwater_service.rpc.server import GrpcServer
from feedwater_service.settings import KUBERNETES_TERMINATION_LOG, SidecarSettings
from feedwater_service.state.sessions import Session, State
from feedwater_service.store.checkpoint import StateStore, session_line
from feedwater_service.store.locks import Lock, take_socket
from feedwater_service.termination_message import exit_line, termination_message, write_termination_message
from feedwater_service.web import static
from feedwater_service.web.hosts import hosts_of
from feedwater_service.web.http import HttpRequest, HttpResponse, HttpServer

if TYPE_CHECKING:
    from feedwater_service.metrics.exposition import Exposition

TICK_SECONDS = 1.0
"""Interval at which expired sessions are removed, and a checkpoint is written if it is due."""

log = logging.getLogger(__name__)


class Sidecar:
    """The parts of the sidecar, connected."""

    def __init__(self, settings: SidecarSettings, engine: Model = model) -> None:
        self._settings = settings
        self._locks: list[Lock] = []
        self._ready = False
        self._checkpointed = perf_counter()
        self.state = State(
            highest_mode=settings.highest_mode,
            max_sessions=settings.max_sessions,
            clock=time,
            monotonic=monotonic,
            boot=lambda: clock_gettime(CLOCK_BOOTTIME),
        )
        self._store = StateStore(Path(settings.state_dir) if settings.state_dir else None)
        self._recommender = Recommender(
            state=self.state,
            model=engine,
            policy=settings.policy,
            share=settings.model_share,
            on_decision=lambda group, decision: record_decision(self._store, self.state, group, decision),
        )
        self._calls = Calls(self.state, self._recommender, self._store)
        self._listeners = Listeners(self._make_server, settings.socket, settings.listen)
        self._http = HttpServer(
            {
                "/metrics": self._metrics,
                "/healthz": self._healthz,
                "/readyz": self._readyz,
                "/api/v1/state": self._state_json,
                **static.routes(),
            },
            hosts_of(settings.http_hosts),
            open_paths=("/healthz", "/readyz"),
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            UnusableError: An address cannot be bound, or a lock is held.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await self._start()
            ticking = asyncio.create_task(self._tick())
            await stop.wait()
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await self._stop()
        finally:
            for lock in self._locks:
                lock.release()

    async def _start(self) -> None:
        began = perf_counter()
        settings = self._settings
        self._take_locks()
        restore(self.state, self._store)
        if self.state.sessions:
            # Without a checkpoint soon, each restart would read the journals of all earlier ones again.
            self._checkpointed = -math.inf
        try:
            http_port = await self._http.start(settings.http_host, settings.http_port)
        except OSError as error:
            where = f"[{settings.http_host}]:{settings.http_port}"
            raise UnusableError(f"FEEDWATER_HTTP_PORT: {where} cannot be bound: {error.strerror}") from None
        listening = await self._listeners.start()
        # Modules and tables live as long as the process: the garbage collector need not visit them.
        gc.freeze()
        self._ready = True
        log.info(
            "feedwater %s ready in %.2f s: clients on %s, metrics on port %d, %d loaders restored",
            __version__,
            perf_counter() - began,
            " and ".join(listening),
            http_port,
            len(self.state.sessions),
        )

    def _make_server(self) -> GrpcServer:
        return GrpcServer(self._calls, self.state.counters.rejected, reflection=self._settings.reflection)

    async def _stop(self) -> None:
        self._ready = False
        self._calls.stop()
        await self._listeners.stop()
        await self._recommender.stop()
        self._store.checkpoint(self.state)
        self._store.close()
        self._write_termination_message(termination_message(self.state, __version__))
        await self._http.stop()
        log.info("ended: %s", exit_line(self.state))

    def _take_locks(self) -> None:
        if self._settings.socket:
            self._locks.append(take_socket(Path(self._settings.socket)))
        if self._settings.state_dir:
            path = Path(self._settings.state_dir)
            self._locks.append(Lock(path / "lock", f"{path}: another sidecar keeps its state there"))

    @cached_property
    def _exposition(self) -> Exposition:
        # Importing prometheus_client takes a seventh of the start's CPU time, and no trainer waits for it.
        from feedwater_service.metrics.collector import StateCollector
        from feedwater_service.metrics.exposition import Exposition

        return Exposition(StateCollector(self.state, __version__, platform.python_version()))

    async def _tick(self) -> None:
        # Imports what rendering needs, so that the first scrape does not wait for it.
        self._exposition.render("")
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._listeners.restore_socket()
                self.state.expire(self._settings.session_timeout_seconds)
                if self._checkpoint_due():
                    await self._checkpoint()
                self.state.counters.checkpoint_failures = self._store.failures
            except Exception:
                log.exception("the tick failed")

    def _checkpoint_due(self) -> bool:
        if self._store.is_checkpoint_due:
            return True
        return perf_counter() - self._checkpointed > self._settings.checkpoint_seconds

    async def _checkpoint(self) -> None:
        """Write a checkpoint; calls are answered between the sessions.

        The thread that writes asks for one line after the other: all lines of 256 loaders took 41 MB.
        """
        self._checkpointed = perf_counter()
        loop, sessions = asyncio.get_running_loop(), self._sessions()
        head = self._store.begin_checkpoint(self.state)

        async def line(session: Session) -> str:
            return session_line(session)

        def lines() -> Iterator[str]:
            yield from head
            for session in sessions:
                yield asyncio.run_coroutine_threadsafe(line(session), loop).result()

        writing = asyncio.ensure_future(asyncio.to_thread(self._store.write_checkpoint, lines()))
        try:
            await asyncio.shield(writing)
        finally:
            # A thread cannot be cancelled, and the checkpoint at the end must not overlap with this one.
            self._store.end_checkpoint(await writing)

    def _sessions(self) -> list[Session]:
        return list(self.state.sessions.values())

    def _write_termination_message(self, message: bytes) -> None:
        setting = self._settings.termination_message
        path = Path(setting or KUBERNETES_TERMINATION_LOG)
        # Path.exists() raises where a parent directory is not readable.
        if not setting and not os.path.exists(path):
            return
        try:
            write_termination_message(path, message)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error.strerror)

    async def _metrics(self, request: HttpRequest) -> HttpResponse:
        body, content_type = await self._exposition.share(request.headers.get("accept", ""))
        return HttpResponse(body, content_type)

    async def _state_json(self, request: HttpRequest) -> HttpResponse:
        shown = await self._calls.shown.json.get()
        headers = {"ETag": shown.tag}
        if request.lists("if-none-match", shown.tag):
            return HttpResponse(b"", "application/json", HTTPStatus.NOT_MODIFIED, headers)
        return HttpResponse(shown.body, "application/json", headers=headers)

    async def _healthz(self, request: HttpRequest) -> HttpResponse:
        if not self._recommender.queue.answers():
            return HttpResponse(
                b"the model's thread does not answer\n", status=HTTPStatus.SERVICE_UNAVAILABLE
            )
        if self._ready and not self._listeners.has_socket():
            return HttpResponse(b"the socket is not ours\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return HttpResponse(b"ok\n")

    async def _readyz(self, request: HttpRequest) -> HttpResponse:
        if self._ready:
            return HttpResponse(b"ready\n")
        return HttpResponse(b"not ready\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
