"""The command: its options, its exit codes, what it says where there is no sidecar."""

from __future__ import annotations

import argparse
import os
import sys
import time

from feedwater.settings import read_settings

TIMEOUT_SECONDS = 5.0
"""For a first answer, and for one that is late: a sidecar under a limit of 0.1 cores takes one second."""
INTERVAL_SECONDS = 2.0
LEAST_SECONDS = 0.2
UNAVAILABLE = 1
"""Exit code where no sidecar answers; argparse's for bad usage is 2."""
NOBODY = (
    "In a pod, ask in the sidecar's container: kubectl exec POD -c feedwater -- feedwater status. "
    "Elsewhere, say where it listens: --address or FEEDWATER_ADDRESS."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``feedwater status``."""
    parser.add_argument(
        "--address", help="where the sidecar is, unix:/path or host:port (default: FEEDWATER_ADDRESS)"
    )
    parser.add_argument("--watch", action="store_true", help="go on, renewing what is shown, until Ctrl-C")
    parser.add_argument(
        "--interval",
        type=_interval,
        metavar="SECONDS",
        help=f"between two looks with --watch (default: {INTERVAL_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="as JSON; with --watch one object a line")


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not LEAST_SECONDS <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected {LEAST_SECONDS:g} to 3600 seconds, got {text!r}")
    return value


def main(parsed: argparse.Namespace) -> int:
    """Show what the sidecar knows; return the exit code."""
    from feedwater.relay.channel import SidecarUnavailableError

    address = parsed.address or read_settings().address
    if hasattr(sys.stdout, "reconfigure"):
        # An image without a locale cannot write an arrow: it writes "?".
        sys.stdout.reconfigure(errors="replace")
    try:
        if parsed.watch:
            _watch(address, parsed.interval or INTERVAL_SECONDS, parsed.json)
        else:
            _once(address, parsed.json)
    except SidecarUnavailableError as error:
        print(f"feedwater status: {error}. {NOBODY}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _once(address: str, as_records: bool) -> None:
    from feedwater.status.follow import read_pod
    from feedwater.status.screen import screen

    pod = read_pod(address, TIMEOUT_SECONDS)
    with screen(as_records=as_records, indent=2) as shown:
        shown.show(pod)


def _watch(address: str, interval_seconds: float, as_records: bool) -> None:
    from feedwater.relay.views import PodView
    from feedwater.status.follow import follow
    from feedwater.status.screen import screen

    states = follow(address, interval_seconds, TIMEOUT_SECONDS)
    first = next(states)
    with screen(as_records=as_records) as shown:
        state = first
        while True:
            if isinstance(state, PodView):
                shown.show(state)
            else:
                shown.lost(str(state), time.time())
            state = next(states)
