"""``feedwater sidecar``: reads the settings, sets up the log, returns the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from feedwater_service.errors import UnusableError
from feedwater_service.settings import read_settings

UNUSABLE = 2
"""Exit code where the sidecar cannot start, the same as argparse's for bad flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar until SIGTERM or SIGINT, and return the exit code."""
    # Process 1 of a container ignores SIGTERM unless it has a handler, and imports take up to 2 s. Nothing
    # has to be saved yet. An exception would not do: Python ignores one that is raised in a weakref callback.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, os.environ)
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        # Imported late, so that bad settings are reported before a second of imports at 100m CPU.
        from feedwater_service.app import Sidecar

        asyncio.run(Sidecar(settings).run())
    except UnusableError as error:
        print(f"feedwater sidecar: cannot start\n{error}", file=sys.stderr)
        return UNUSABLE
    return 0
