"""The client's settings, from ``FEEDWATER_*`` variables. Training never fails for a bad one."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from feedwater.values import Mode

log = logging.getLogger("feedwater")
T = TypeVar("T")

DEFAULT_ADDRESS = "unix:/run/feedwater/api.sock"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says to the client."""

    mode: Mode | None = None
    """What Feedwater may do to loaders whose `watch` names no mode; None: what the entry point does by
    default (auto for `watch`, advise for ``feedwater run``)."""
    address: str = DEFAULT_ADDRESS
    """Where the sidecar is: ``unix:/path`` or ``host:port`` on loopback."""
    deadline_seconds: float = 0.25
    """Longest wait for a recommendation at an epoch boundary. A recommendation is ready before the epoch
    ends, so the answer takes milliseconds; a frozen sidecar costs this much per epoch, a fifth of the
    start of a spawned worker."""
    job: str = ""
    """The workload; stable across restarts of a container."""
    namespace: str = ""
    """The pod's namespace; empty outside Kubernetes."""
    pod: str = ""
    """The pod, or the host where there is none."""
    disabled: bool = False
    """True: `watch` does nothing at all."""
    run_dir: str = ""
    """Where a record of a change under probation is kept, made where it is not there; empty: beside the Unix
    socket if that directory can be written, else a directory of the user's in the system's temporary one."""
    rank: int = 0
    """This training process among all of the job, as torchrun sets it."""
    local_rank: int = 0
    """This training process among those of its node."""
    world_size: int = 1
    """Training processes of the job."""
    local_world_size: int = 1
    """Training processes of this node."""


class Variable(NamedTuple):
    """One variable of the environment, for reading it and for the table in the docs."""

    name: str
    default: str
    allowed: str
    means: str


VARIABLES = (
    Variable("FEEDWATER_MODE", "", "off, observe, advise, auto", "Mode of loaders whose `watch` sets none"),
    Variable("FEEDWATER_ADDRESS", DEFAULT_ADDRESS, "unix:/path, host:port", "The sidecar's address"),
    Variable(
        "FEEDWATER_DEADLINE_SECONDS",
        "0.25",
        "a number above 0, at most 60",
        "Longest wait for an answer at an epoch boundary",
    ),
    Variable("FEEDWATER_JOB", "the script's name", "text", "The workload, stable across restarts"),
    Variable("FEEDWATER_NAMESPACE", "POD_NAMESPACE", "text", "The pod's namespace"),
    Variable("FEEDWATER_POD", "POD_NAME, or the host's name", "text", "The pod's name"),
    Variable("FEEDWATER_DISABLED", "0", "0, 1, false, true, no, yes", "1: `watch` does nothing at all"),
    Variable(
        "FEEDWATER_RUN_DIR",
        "the socket's directory",
        "an absolute path",
        "Directory for the record of a change under probation, made if absent; must outlive a restart of the "
        "container. Where other users can write it, the record is in `feedwater-UID` below",
    ),
    Variable(
        "FEEDWATER_CPU_LIMIT_MILLICORES",
        "",
        "a whole number",
        "`limits.cpu` of the Downward API with divisor `1m`; used if the cgroup shows no limit, as with a "
        "limit of the whole pod",
    ),
    Variable(
        "FEEDWATER_MEMORY_LIMIT_BYTES", "", "a whole number", "`limits.memory` of the Downward API, likewise"
    ),
)


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that ``environ`` (None: this process's) states; a bad value draws one warning."""
    source = os.environ if environ is None else environ

    def value(name: str, parse: Callable[[str], T], default: T) -> T:
        return _value(source, name, parse, default)

    return Settings(
        mode=value("FEEDWATER_MODE", lambda text: Mode(text.lower()), None),
        address=value("FEEDWATER_ADDRESS", _address, DEFAULT_ADDRESS),
        deadline_seconds=value("FEEDWATER_DEADLINE_SECONDS", _deadline, 0.25),
        job=source.get("FEEDWATER_JOB", "") or _script_name(),
        namespace=source.get("FEEDWATER_NAMESPACE", "") or source.get("POD_NAMESPACE", ""),
        pod=source.get("FEEDWATER_POD", "") or source.get("POD_NAME", "") or socket.gethostname(),
        disabled=value("FEEDWATER_DISABLED", _truth, False),
        run_dir=value("FEEDWATER_RUN_DIR", _absolute, ""),
        rank=value("RANK", _count, 0),
        local_rank=value("LOCAL_RANK", _count, 0),
        world_size=value("WORLD_SIZE", _count, 1),
        local_world_size=value("LOCAL_WORLD_SIZE", _count, 1),
    )


def read_count(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number of 0 or more from ``environ``; the default where there is none."""
    return _value(environ, name, _count, default)


def table() -> str:
    """Return the variables as the Markdown table of docs/configuration.md."""
    rows = [f"| `{v.name}` | {v.means} | {v.allowed} | {v.default} |" for v in VARIABLES]
    return "\n".join(["| variable | meaning | allowed | default |", "|---|---|---|---|", *rows]) + "\n"


def _value(source: Mapping[str, str], name: str, parse: Callable[[str], T], default: T) -> T:
    text = source.get(name, "").strip()
    if not text:
        return default
    try:
        return parse(text)
    except ValueError:
        allowed = next((v.allowed for v in VARIABLES if v.name == name), "a whole number, 0 or more")
        log.warning("%s=%r is ignored: expected %s", name, text[:80], allowed)
        return default


def _address(text: str) -> str:
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(text)
    return text


def _deadline(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and 0 < seconds <= 60):
        raise ValueError(text)
    return seconds


def _truth(text: str) -> bool:
    known = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _absolute(text: str) -> str:
    if not os.path.isabs(text):
        raise ValueError(text)
    return text


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(text)
    return count


def _script_name() -> str:
    script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    return os.path.splitext(script)[0] or "python"
