"""The relay that ``feedwater install-client`` laid beside this package, with a Python of its own.

So it needs neither gRPC in the training's image nor the image's Python or C library.
"""

from __future__ import annotations

import os

import feedwater

PRELOADED = ("LD_PRELOAD", "LD_AUDIT")
"""Libraries of the image, for the image's C library: the relay's loader must not take them."""


def site() -> str:
    """Return the directory that this package is imported from."""
    return os.path.dirname(os.path.dirname(os.path.abspath(feedwater.__file__)))


def relay() -> str:
    """Return the directory of the brought relay.

    Returns:
        Empty where Feedwater is installed in the image, or where nothing can be executed from the volume:
        then the image's Python runs the relay, if it has gRPC.
    """
    beside = os.path.join(os.path.dirname(site()), "relay")
    return beside if os.access(os.path.join(beside, "ld.so"), os.X_OK) else ""


def python(relay: str) -> list[str]:
    """Return the words that start the relay's Python."""
    # The driver's library for NVIDIA's figures may be found only where the image says.
    libraries = [os.path.join(relay, "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH", "")])]
    loader, interpreter = os.path.join(relay, "ld.so"), os.path.join(relay, "bin/python3")
    return [loader, "--library-path", os.pathsep.join(libraries), interpreter]


def environment() -> dict[str, str]:
    """Return the environment for the relay's Python."""
    kept = {name: value for name, value in os.environ.items() if name not in PRELOADED}
    # The image's locales are files for the image's C library too.
    return kept | {"LC_ALL": "C"}
