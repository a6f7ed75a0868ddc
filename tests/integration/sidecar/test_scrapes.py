"""A scrape is one moment of the state, whatever the sidecar is doing meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from feedwater_service.metrics.families import FAMILIES

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Client, Process

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BATCHES = 60
"""In one report of `conftest.Client.message`."""


@contextlib.contextmanager
def _flood(connect: Callable[..., Client], ranks: int = 4) -> Iterator[None]:
    """Send reports as fast as they are taken, until the body is through or the sidecar is gone."""
    ending = threading.Event()

    def send(client: Client) -> None:
        sequence = 0
        with contextlib.suppress(grpc.RpcError):
            while not ending.is_set():
                message = client.message(sequence + 1, epoch=sequence // 4, first=sequence % 4 * BATCHES)
                message.loader_id = client.loader_id
                client.report(message)
                sequence += 1

    clients = [connect(f"client-{number}") for number in range(ranks)]
    for number, client in enumerate(clients):
        client.register(f"loader-{number}")
    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def _check(body: bytes, *, openmetrics: bool) -> float:
    """Check that a scrape is whole and of one moment; return the batches that it counts."""
    families = {f.name: f for f in (parse_openmetrics if openmetrics else parse)(body.decode())}
    assert {family.name for family in FAMILIES} <= families.keys()
    counts: dict[tuple[str, str], set[float]] = {}
    for metric, sample_name in (
        ("feedwater_batches", "feedwater_batches_total"),
        ("feedwater_wait_seconds", "feedwater_wait_seconds_count"),
        ("feedwater_step_seconds", "feedwater_step_seconds_count"),
    ):
        for sample in families[metric].samples:
            if sample.name == sample_name:
                of = (sample.labels["loader"], sample.labels["rank"])
                counts.setdefault(of, set()).add(sample.value)
    assert all(len(told) == 1 for told in counts.values()), counts
    assert all(value % BATCHES == 0 for told in counts.values() for value in told), (
        "half a report was counted"
    )
    return sum(value for told in counts.values() for value in told)


def test_scrapes_during_a_flood_and_checkpoints_are_whole(
    launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """Four ranks report without pause, a checkpoint is due each second: no scrape shows half of a report."""
    process = launch(FEEDWATER_CHECKPOINT_SECONDS="1").ready()
    checkpoint = process.directory / "state/state.json"
    counted = 0.0
    with _flood(connect):
        number = 0
        while number < 40 or not checkpoint.exists():
            number += 1
            openmetrics = number % 2 == 1
            status, _, body = process.http("/metrics", accept=OPENMETRICS if openmetrics else "text/plain")
            assert status == 200
            newly = _check(body, openmetrics=openmetrics)
            assert newly >= counted
            counted = newly
    assert counted > 0
    assert process.metric("feedwater_rejected_calls_total") == 0


def test_scrapes_during_shutdown_are_whole_or_refused(
    launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """From SIGTERM to the end each scrape is whole or finds nobody; none is cut off."""
    process = launch().ready()
    port = process.http_port
    with _flood(connect):
        assert _check(process.http("/metrics")[2], openmetrics=False) >= 0
        process.popen.send_signal(signal.SIGTERM)
        while process.popen.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection):
                try:
                    connection.request("GET", "/metrics")
                    answer = connection.getresponse()
                except (ConnectionError, http.client.RemoteDisconnected):
                    continue
                _check(answer.read(), openmetrics=False)
    assert process.code() == 0


def test_scrape_in_progress_at_shutdown_is_finished(
    launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """A reader that has taken the first bytes gets the others after the port is closed."""
    process = launch().ready()
    address = ("127.0.0.1", process.http_port)
    clients = [connect(f"client-{number}") for number in range(5)]
    for number in range(250):
        client = clients[number % len(clients)]
        client.register(f"loader-{number}-" + "x" * 110)
        client.report(client.message(1, end=True))
    with socket.socket() as slow:
        # The kernel takes less of it at once.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(address)
        slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        received = slow.recv(1)
        process.popen.send_signal(signal.SIGTERM)
        process.until(lambda: not _listens(address), "still listening")
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        while chunk := slow.recv(1 << 20):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert len(body) > 1 << 22, "more than the kernel takes"
    assert process.code() == 0


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionError:
        return False
    return True
