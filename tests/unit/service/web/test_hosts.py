"""Which Host a request may have."""

from __future__ import annotations

import socket

import pytest

from feedwater_service.web.hosts import hosts_of


@pytest.mark.parametrize(
    "host",
    [
        None,
        "10.1.2.3",
        "10.1.2.3:9464",
        "[::1]:9464",
        "[fd00::7]",
        "localhost",
        "LocalHost:8080",
        "localhost.",
        socket.gethostname(),
        f"{socket.gethostname()}:9464",
        "feedwater.jobs.svc:9464",
    ],
)
def test_addresses_and_own_names_are_accepted(host: str | None) -> None:
    """Prometheus calls an address, a port-forward localhost, a Service by the name that the setting has."""
    assert hosts_of("feedwater.jobs.svc, other").accept(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[",
        "[]:1",
    ],
)
def test_other_names_are_refused_unless_any_is_set(host: str) -> None:
    """A name that somebody else's DNS resolves to this address is not ours."""
    assert not hosts_of("").accept(host)
    assert hosts_of("*").accept(host)
