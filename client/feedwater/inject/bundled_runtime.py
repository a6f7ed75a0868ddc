"""The runtime that ``feedwater install-client`` puts beside this package: a Python with gRPC for the relay.

With it the relay needs neither gRPC in the training image nor the image's Python or C library.
`feedwater.inject.bundle` builds it.
"""

from __future__ import annotations

import os
from pathlib import Path

PRELOADED = ("LD_PRELOAD", "LD_AUDIT")
"""Libraries built for the image's C library: the relay's dynamic loader must not load them."""


def site_directory() -> str:
    """Return the directory that this package is imported from."""
    return str(Path(__file__).absolute().parents[2])


def find() -> str:
    """Return the directory of the bundled runtime.

    Returns:
        Empty where Feedwater is installed in the image, or where the volume is mounted ``noexec``: then the
        image's Python runs the relay, if the image has gRPC.
    """
    directory = os.path.join(os.path.dirname(site_directory()), "relay")
    return directory if os.access(os.path.join(directory, "ld.so"), os.X_OK) else ""


def python_command(directory: str) -> list[str]:
    """Return the command that starts the Python of the runtime in ``directory``."""
    # NVIDIA's driver library may be found by the image's LD_LIBRARY_PATH alone.
    libraries = [os.path.join(directory, "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH", "")])]
    loader, interpreter = os.path.join(directory, "ld.so"), os.path.join(directory, "bin/python3")
    return [loader, "--library-path", os.pathsep.join(libraries), interpreter]


def environment() -> dict[str, str]:
    """Return the environment of the runtime's Python."""
    kept = {name: value for name, value in os.environ.items() if name not in PRELOADED}
    # Locale archives belong to the image's C library as well.
    return kept | {"LC_ALL": "C"}
