"""Clients that hold calls and connections without using them keep nobody else out."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Client, Process

METHODS = ("Report", "GetRecommendation", "RegisterLoader", "Watch")


def _half_open(client: Client, count: int, ended: threading.Event) -> list[grpc.Future]:
    """Begin calls whose message does not come before ``ended``."""

    def never() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    service = "/feedwater.v1.FeedwaterService/"
    calls = [client.channel.stream_unary(service + method) for method in METHODS]
    return [calls[number % len(calls)].future(never()) for number in range(count)]


def test_half_open_calls_keep_nobody_out(sidecar: Process, connect: Callable[..., Client]) -> None:
    """1,040 calls without a message, over 20 connections: another client registers, reports and watches."""
    ended = threading.Event()
    with ExitStack() as stack:
        stack.callback(ended.set)
        calls = [call for number in range(20) for call in _half_open(connect(f"h{number}"), 52, ended)]
        for call in calls:
            stack.callback(call.cancel)
        client = connect("honest")
        client.register()
        for epoch in range(20):
            assert client.report(client.message(epoch + 1, epoch=epoch, end=True)) == epoch + 1
        assert len(client.state()) == 1
        assert sidecar.http("/healthz")[0] == 200


def test_call_without_its_message_is_ended(sidecar: Process, connect: Callable[..., Client]) -> None:
    """After five seconds, with a status that says why."""
    ended = threading.Event()
    with ExitStack() as stack:
        stack.callback(ended.set)
        for call in _half_open(connect(), 2, ended):
            assert call.exception(timeout=20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not come" in call.exception().details()


def test_idle_connections_keep_nobody_out(
    launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """With 256 descriptors, 300 silent connections: metrics are served, and a new client gets in."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        process = launch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    process.ready()
    with ExitStack() as stack:
        for _ in range(300):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.settimeout(0.1)
            try:
                silent.connect(str(process.socket))
            except OSError:
                break
        assert process.http("/metrics")[0] == 200
        assert connect("honest").register().loader_id
