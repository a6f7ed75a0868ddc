"""The sidecar's settings: flags and ``FEEDWATER_*`` variables, read from one table.

A flag overrides its variable, a variable overrides the default. An empty variable counts as absent, because a
Kubernetes manifest with an unset parameter gives one. All problems are collected and reported together.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feedwater.values import Mode
from feedwater_service.errors import UnusableError
from feedwater_service.model.types import Policy

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path: ``sun_path`` holds 108 with the closing zero (unix(7))."""
KUBERNETES_TERMINATION_LOG = "/dev/termination-log"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """What can be set. The string under each field documents it, also in docs/configuration.md."""

    socket: str = "/run/feedwater/api.sock"
    """Path of the Unix socket that clients connect to, at most 107 bytes. Empty: no socket."""
    listen: str = ""
    """Loopback address for clients that cannot share a volume, as `127.0.0.1:9463`. Empty: none. Port 0 picks
    a free one and the log says which."""
    http_host: str = "::"
    """Address of the HTTP server. The default is all interfaces, IPv4 and IPv6: Prometheus scrapes the
    pod's address. `fd:7`: descriptor 7 is a socket that listens already; the port is then ignored."""
    http_port: int = 9464
    """Port of the live page, `/metrics`, `/healthz` and `/readyz`. 0 picks a free one; the log names it."""
    http_hosts: str = ""
    """Names, separated by commas, by which the HTTP port may be called, besides addresses, `localhost` and
    the pod's name: that of a Service or an Ingress. `*`: any. Requests for others get 421, so that no web
    page can read the state through `kubectl port-forward` (DNS rebinding)."""
    state_dir: str = "/run/feedwater/state"
    """Directory for the state that survives a restart of the sidecar; made if absent. Empty: none does."""
    checkpoint_seconds: float = 60.0
    """Time between two whole checkpoints. Between them each report is appended to a journal, so nothing is
    lost; with a longer time a restart reads a longer journal."""
    session_timeout_seconds: float = 3600.0
    """Time without a report after which a loader is removed. Longer than a validation phase, in which nothing
    is reported; a client that comes back later registers again."""
    max_sessions: int = 256
    """Loaders held at once: 16 ranks with 16 loaders each, and at most 64 of one training process. All share
    one budget of memory: the more report, the fewer batches are kept of each."""
    max_mode: str = "auto"
    """The highest mode that is allowed: `off`, `observe`, `advise` or `auto`. It lowers the mode of clients,
    and never raises it."""
    min_workers: int = Policy().min_workers
    """The smallest `num_workers` that is recommended."""
    max_workers: int = Policy().max_workers
    """The largest `num_workers` that is recommended, even if the pod could carry more."""
    memory_margin: float = Policy().memory_margin
    """Share of the memory limit that is never planned for, 0 to 0.9."""
    min_batches: int = Policy().min_batches
    """Least number of measured batches for a recommendation."""
    min_gain: float = Policy().min_gain
    """Least predicted gain in batches/s for a change, as a share."""
    max_changes: int = Policy().max_changes
    """Changes over the life of a loader; after them its settings stay."""
    model_share: float = 0.02
    """Share of one core that analyses may take while an epoch of unknown length runs; 0: none before the
    epoch has ended. An epoch of known length is analysed once, at its half."""
    reflection: bool = False
    """Serve gRPC reflection, for `grpcurl` and the like."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    termination_message: str = ""
    """File for the termination message, JSON of at most 4 KiB. Empty: `/dev/termination-log` where Kubernetes
    made one, else none."""

    @property
    def policy(self) -> Policy:
        """The settings of the model."""
        return Policy(
            max_workers=self.max_workers,
            min_workers=self.min_workers,
            memory_margin=self.memory_margin,
            min_batches=self.min_batches,
            min_gain=self.min_gain,
            max_changes=self.max_changes,
        )

    @property
    def highest_mode(self) -> Mode:
        """The highest mode that is allowed."""
        return Mode(self.max_mode)


DEFAULTS = SidecarSettings()
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Option:
    """The names of one setting, and how its text is read."""

    field: str
    read: Callable[[str], Value]
    """Raises ValueError with what was expected."""

    @property
    def flag(self) -> str:
        """``--http-port``."""
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """``FEEDWATER_HTTP_PORT``."""
        return "FEEDWATER_" + self.field.upper()

    @property
    def default(self) -> Value:
        """The value if neither flag nor variable is given."""
        value: Value = getattr(DEFAULTS, self.field)
        return value


def _whole(low: int, high: int) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        if not (text.strip().isdecimal() and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return read


def _number(low: float, high: float) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

    return read


def _one_of(*words: str) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        if text.strip().lower() not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text.strip().lower()

    return read


def _switch(text: str) -> Value:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.strip().lower() not in words:
        raise ValueError("expected true or false")
    return words[text.strip().lower()]


def _socket_path(text: str) -> Value:
    path = text.removeprefix("unix:")
    if path and not path.startswith("/"):
        raise ValueError("expected an absolute path")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"expected at most {MAX_SOCKET_PATH} bytes, the path has {len(path.encode())}")
    return path


def _loopback(text: str) -> Value:
    if not text:
        return ""
    host, _, port = text.rpartition(":")
    if host.strip("[]") not in LOOPBACK or not (port.isdecimal() and int(port) <= 65535):
        raise ValueError("expected a loopback address and a port, as 127.0.0.1:9463")
    return text


def _path(text: str) -> Value:
    if text and not text.startswith("/"):
        raise ValueError("expected an absolute path")
    return text


OPTIONS = (
    Option("socket", _socket_path),
    Option("listen", _loopback),
    Option("http_host", str),
    Option("http_port", _whole(0, 65535)),
    Option("http_hosts", str),
    Option("state_dir", _path),
    Option("checkpoint_seconds", _number(1, 3600)),
    Option("session_timeout_seconds", _number(1, 86400)),
    Option("max_sessions", _whole(1, 4096)),
    Option("max_mode", _one_of(*(mode.value for mode in Mode))),
    Option("min_workers", _whole(0, 1024)),
    Option("max_workers", _whole(0, 1024)),
    Option("memory_margin", _number(0, 0.9)),
    Option("min_batches", _whole(2, 1_000_000)),
    Option("min_gain", _number(0, 1)),
    Option("max_changes", _whole(0, 1000)),
    Option("model_share", _number(0, 1)),
    Option("reflection", _switch),
    Option("log_level", _one_of("debug", "info", "warning", "error")),
    Option("termination_message", _path),
)


def read_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> SidecarSettings:
    """Return the settings that flags and variables state.

    Raises:
        UnusableError: With every problem found, one a line.
        SystemExit: ``--help`` was asked for (0), or a flag is unknown (2).
    """
    given = vars(_parser(helped=bool({"-h", "--help"} & set(arguments))).parse_args(arguments))
    values: dict[str, Value] = {}
    problems: list[str] = []
    for option in OPTIONS:
        flagged = given[option.field] is not None
        text = given[option.field] if flagged else environ.get(option.variable) or None
        if text is None:
            continue
        try:
            values[option.field] = option.read(text)
        except ValueError as error:
            problems.append(f"{option.flag if flagged else option.variable}: {error}, got {text[:80]!r}")
    settings = SidecarSettings(**values)  # type: ignore[arg-type]
    problems += _contradictions(settings)
    if problems:
        raise UnusableError("\n".join(problems))
    return settings


def _contradictions(settings: SidecarSettings) -> list[str]:
    problems = []
    if settings.min_workers > settings.max_workers:
        problems.append(
            f"FEEDWATER_MIN_WORKERS: {settings.min_workers} is above FEEDWATER_MAX_WORKERS, "
            f"{settings.max_workers}"
        )
    if not settings.socket and not settings.listen:
        problems.append(
            "FEEDWATER_SOCKET and FEEDWATER_LISTEN are both empty: clients have nowhere to connect"
        )
    for name, path in (("FEEDWATER_SOCKET", settings.socket), ("FEEDWATER_STATE_DIR", settings.state_dir)):
        blocking = (
            _non_directory(Path(path).parent if name == "FEEDWATER_SOCKET" else Path(path)) if path else None
        )
        if blocking:
            problems.append(f"{name}: {blocking} is not a directory")
    return problems


def _non_directory(directory: Path) -> Path | None:
    """Return the part of a directory's path that exists and is not a directory."""
    existing = next((p for p in (directory, *directory.parents) if p.exists()), None)
    return existing if existing is not None and not existing.is_dir() else None


def _parser(helped: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="feedwater sidecar", description="Run the sidecar.", allow_abbrev=False, add_help=True
    )
    texts = documentation() if helped else {}
    for option in OPTIONS:
        text = texts.get(option.field, "").replace("%", "%%").replace("`", "")
        parser.add_argument(
            option.flag,
            dest=option.field,
            metavar="VALUE",
            nargs="?" if isinstance(option.default, bool) else None,
            const="true" if isinstance(option.default, bool) else None,
            help=f"{text} Variable: {option.variable}. Default: {option.default!r}.",
        )
    return parser


def documentation() -> dict[str, str]:
    """Return the string under each field of `SidecarSettings`, on one line."""
    body = ast.parse(inspect.getsource(SidecarSettings)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts
