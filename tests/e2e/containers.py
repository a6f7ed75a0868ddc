"""Podman, and the sidecar's image built from the Dockerfile."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
from typing import Any

from tests import ROOT

CACHE = ROOT / ".cache/image"
IMAGE = "localhost/feedwater:test"
BASE = "docker.io/library/python:3.11-slim-bookworm"
"""What the Dockerfile starts from; a plain training image too."""
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


@functools.cache
def environment() -> dict[str, str]:
    """Return the environment for podman and buildah on this machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    conf = CACHE / "containers.conf"
    conf.write_text(CONTAINERS_CONF)
    return os.environ | {"CONTAINERS_CONF": str(conf)}


def podman(*words: object, check: bool = True) -> str:
    """Run podman; return what it printed, on either stream."""
    done = subprocess.run(
        ["podman", *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert not check or done.returncode == 0, f"podman {words[0]}: {done.stdout}"
    return done.stdout


def state(container: str) -> dict[str, Any]:
    """Return what podman knows of a container's life."""
    found: dict[str, Any] = json.loads(podman("inspect", container))[0]["State"]
    return found


@functools.cache
def built_image() -> str:
    """Build the sidecar's image, once for all tests; return its name."""
    subprocess.run(
        ["sh", "tests/e2e/base_image.sh", str(CACHE)],
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    # What pip needs to know of this machine (an index, a certificate bundle) is mounted, not built in.
    mounts = ["/etc/ssl/certs", os.environ.get("PIP_CONFIG_FILE", "/etc/pip.conf")]
    volumes = [
        word
        for path in mounts
        if os.path.exists(path)
        for word in ("-v", f"{path}:{'/etc/pip.conf' if path.endswith('.conf') else path}:ro")
    ]
    subprocess.run(
        ["buildah", "build", "--isolation=chroot", "--network=host", *volumes, "--tag", IMAGE, str(ROOT)],
        env=environment(),
        check=True,
    )
    return IMAGE


def http_port(container: str, seconds: float = 30) -> int:
    """Return the port that the sidecar says it picked, once it says so; of several starts the last."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        logs = podman("logs", container, check=False)
        if said := re.findall(r"metrics on port (\d+)", logs):
            return int(said[-1])
        time.sleep(0.1)
    raise AssertionError(f"no HTTP port in the sidecar's log:\n{logs}")
