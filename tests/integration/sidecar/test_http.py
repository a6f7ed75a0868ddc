"""The HTTP side: fixed paths, two methods, and patience with nobody."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Client, Process


def _talk(process: Process, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", process.http_port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_ok(served: Process, path: str) -> None:
    """Both probes say 200 once the sidecar serves."""
    assert served.http(path)[0] == 200


def test_metrics_come_with_security_headers(served: Process) -> None:
    """The plain format by default, never cached, never sniffed, never framed."""
    status, headers, body = served.http("/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert b"feedwater_build_info{" in body


def test_metrics_negotiate_openmetrics(served: Process) -> None:
    """With Prometheus' Accept header OpenMetrics comes, closed by its end mark."""
    _, headers, body = served.http(
        "/metrics", Accept="application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
    )
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("text/plain;q=0.3, application/openmetrics-text;q=0.5, */*;q=0.2", "application/openmetrics-text"),
        ("text/plain;q=1, application/openmetrics-text;q=0.1", "text/plain"),
        ("application/openmetrics-text;q=0, */*", "text/plain"),
        ("application/openmetrics-text;q=soon", "text/plain"),
    ],
)
def test_the_format_that_accept_prefers_comes(served: Process, accept: str, content_type: str) -> None:
    """By weight; where both weigh the same, OpenMetrics, which says more."""
    assert served.http("/metrics", Accept=accept)[1]["content-type"].startswith(content_type)


def test_older_http_is_answered_once(served: Process) -> None:
    """A client of HTTP/1.0 reads to the end of the connection, unless it asks to keep it."""
    assert _talk(served, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
    both = _talk(
        served, b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /readyz HTTP/1.0\r\n\r\n"
    )
    assert both.endswith(b"ready\n")


def test_head_has_the_length_and_no_body(served: Process) -> None:
    """HEAD is GET without its body."""
    status, headers, body = served.http("/healthz", "HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/index.html", 404),
        ("GET", "/metrics/../../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/healthz", 405),
        ("POST", "/nowhere", 404),
    ],
)
def test_all_else_is_refused(served: Process, method: str, path: str, status: int) -> None:
    """Unknown paths are not found; known ones are only read."""
    assert served.http(path, method)[0] == status


def test_one_connection_serves_many_requests(served: Process) -> None:
    """Two requests sent at once over one connection get two answers, and `close` ends it."""
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    received = _talk(served, request + b"\r\n" + request + b"Connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / SPDY/9\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbroken header\r\n\r\n", b"400"),
        (b"\xff\xfe\x00\r\n\r\n", b"400"),
    ],
)
def test_broken_requests_are_refused_and_closed(served: Process, sent: bytes, status: bytes) -> None:
    """What is no request, or has a header beyond 8 KB, gets its status and the end of the connection."""
    assert _talk(served, sent).split(b" ")[1] == status


def test_body_is_not_taken_for_the_next_request(served: Process) -> None:
    """A body is never read: the connection ends after the answer, so that nothing hides in it."""
    hidden = b"GET /metrics HTTP/1.1\r\n\r\n"
    length = str(len(hidden)).encode()
    received = _talk(served, b"GET /healthz HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n" + hidden)
    assert received.count(b"HTTP/1.1") == 1


def test_idle_connections_do_not_lock_out_a_scraper(sidecar: Process) -> None:
    """With 200 connections that say nothing a scrape is answered still."""
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", sidecar.http_port), timeout=10))
        assert sidecar.http("/metrics")[0] == 200


def test_a_thousand_idle_connections_do_not_starve_a_scrape(sidecar: Process) -> None:
    """With 1,000 connections that say nothing a scrape is answered; all but the newest of them are closed."""
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", sidecar.http_port), timeout=10))
        assert sidecar.http("/metrics")[0] == 200
        open_files = Path(f"/proc/{sidecar.popen.pid}/fd")
        sidecar.until(lambda: len(list(open_files.iterdir())) < 200, "connections were not closed")
    assert sidecar.http("/healthz")[0] == 200


def test_reader_that_takes_nothing_does_not_hold_up_others(
    sidecar: Process, connect: Callable[..., Client]
) -> None:
    """Ten clients ask for metrics again and again and read nothing: the eleventh is answered."""
    client = connect()
    for number in range(20):
        client.register(f"loader-{number}")
        client.report(client.message(1, end=True))
    with ExitStack() as stack:
        for _ in range(10):
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", sidecar.http_port))
            slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 20)
        assert sidecar.http("/metrics")[0] == 200


def test_nothing_of_a_request_comes_back(served: Process) -> None:
    """Neither path, header nor body of a refused request is in the answer."""
    secret = b"s3cr3t"
    for line in (b"GET /s3cr3t HTTP/1.1", b"POST /metrics?s3cr3t HTTP/1.1", b"s3cr3t"):
        request = line + b"\r\nX-Token: s3cr3t\r\nContent-Length: 6\r\n\r\ns3cr3t"
        assert secret not in _talk(served, request)


def test_slow_client_is_cut_off(served: Process) -> None:
    """A header that never ends is given five seconds, then the connection is closed."""
    with socket.create_connection(("127.0.0.1", served.http_port), timeout=20) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert slow.recv(100) == b""


@pytest.mark.real
def test_promtool_finds_nothing_with_hostile_loaders(
    sidecar: Process, connect: Callable[..., Client]
) -> None:
    """With loaders called by quotes, line breaks and 10 KB, `promtool check metrics` is clean."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus"
    client = connect()
    for name in ('quo"te', "line\nbreak", "back\\slash", "x" * 10_000, "ü☃", "{}"):
        client.register(name)
        client.report(client.message(1, end=True))
    text = sidecar.http("/metrics")[2]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_listening_socket_that_was_handed_on_is_served(launch: Callable[..., Process]) -> None:
    """Who starts the sidecar knows the port before it is up; who connects meanwhile waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        early = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        early.connect()
        launch(pass_fds=(listener.fileno(),), FEEDWATER_HTTP_HOST=f"fd:{listener.fileno()}")
    early.request("GET", "/healthz")
    assert early.getresponse().read() == b"ok\n"
    early.close()


def test_state_has_an_entity_tag(sidecar: Process) -> None:
    """A reader that asks with the tag of what it has is told that nothing is newer, without a body."""
    status, headers, body = sidecar.http("/api/v1/state")
    assert (status, headers["cache-control"]) == (200, "no-store")
    other = sidecar.http("/api/v1/state", If_None_Match='"other"')
    assert other[0] == 200
    again = {sidecar.http("/api/v1/state", If_None_Match=headers["etag"])[0] for _ in range(3)}
    assert again <= {200, 304}
    assert body


def test_state_names_no_ids(sidecar: Process, connect: Callable[..., Client]) -> None:
    """Whoever reaches the port learns no id with which he could report in a loader's name."""
    client = connect("client-secret")
    client.register()
    body = sidecar.http("/api/v1/state")[2].decode()
    assert "train" in body
    assert client.loader_id not in body
    assert "client-secret" not in body
    assert sidecar.http("/metrics")[2].decode().count(client.loader_id) == 0


@pytest.mark.parametrize("path", ["/", "/page.js", "/metrics", "/api/v1/state"])
def test_name_of_another_site_is_refused(served: Process, path: str) -> None:
    """A page whose name resolves to this address reads nothing; probes are answered under any name."""
    assert served.http(path, Host="evil.example")[0] == 421
    assert served.http(path, Host="localhost:1234")[0] == 200
    assert served.http("/healthz", Host="evil.example")[0] == 200
