"""Which names a request may call this server by.

A page of any site can have its own name resolve to 127.0.0.1 (DNS rebinding) and read what `kubectl
port-forward` opens there; its requests carry that name as their Host. An address cannot be rebound.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address

ANY = "*"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names that are accepted, besides every address."""

    names: frozenset[str]
    """In lower case; with `ANY` every name is accepted."""

    def accept(self, host: str | None) -> bool:
        """Return whether a header ``Host`` is accepted; None, as of old HTTP, comes from no browser."""
        if host is None or ANY in self.names:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and ":" in host else host
        return name.lower().rstrip(".") in self.names or _is_address(name)


def hosts_of(more: str) -> Hosts:
    """Return localhost, this host's name (in a pod the pod's), and the names of a comma-separated list."""
    names = {name.strip().lower() for name in more.split(",")} - {""}
    return Hosts(frozenset({"localhost", socket.gethostname().lower(), *names}))


def _is_address(name: str) -> bool:
    text = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
