"""``feedwater sidecar``: settings, log, exit code."""

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
"""Exit code where the sidecar cannot start: what argparse uses for bad flags, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar until it is told to end, and return the exit code."""
    # The first process of a container is deaf to SIGTERM without a handler, and imports take up to 2 s. There
    # is nothing to save yet, and an exception could get lost: Python ignores them in weakrefs' callbacks.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, os.environ)
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        # Imported late, so that bad settings are told before a second of imports at 100m CPU.
        from feedwater_service.app import Sidecar

        asyncio.run(Sidecar(settings).run())
    except UnusableError as error:
        print(f"feedwater sidecar: cannot start\n{error}", file=sys.stderr)
        return UNUSABLE
    return 0
