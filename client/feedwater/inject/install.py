"""``feedwater install-client``: lay the client into a volume, for a training image that has no Feedwater.

    DIRECTORY/site    for ``PYTHONPATH``: a ``sitecustomize`` and the package, run by the image's own Python
    DIRECTORY/relay   the runtime of the relay, whatever the image has (see `feedwater.inject.bundle`)

`feedwater.inject.bundled_runtime` finds the runtime beside the package.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import feedwater

PREPARED = Path(sys.prefix, "share/feedwater/client")
"""Assembled when the image is built, and copied when a pod starts; elsewhere `install` assembles a client."""
PARTS = ("relay", "site")
"""In the order in which they are renamed into place: a trainer that finds ``site`` finds its relay too."""
STAMP = "site/feedwater-client"
UNFINISHED = ".unfinished"


def main(directory: str) -> int:
    """Install the client into ``directory``, and print that it is there or what went wrong.

    Returns:
        0 in both cases: a failed init container would keep the training from starting, and a training
        without a client runs as it would without Feedwater.
    """
    try:
        is_new = install(Path(directory))
    except OSError as error:
        print(f"feedwater install-client: {error}; training goes on without Feedwater", file=sys.stderr)
        return 0
    print(f"client {feedwater.__version__} {'installed' if is_new else 'is already'} in {directory}")
    return 0


def install(directory: Path, prepared: Path = PREPARED) -> bool:
    """Install the client; return False if it is installed already.

    An interrupted call leaves nothing that a trainer would find; the next call removes what is left.

    Raises:
        OSError: ``directory`` cannot be written to, or ``ldd``, which assembling needs, is not installed.
    """
    stamp = _read(prepared / STAMP) or _stamp_of_sources()
    if _read(directory / STAMP) == stamp:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        if _read(prepared / STAMP):
            shutil.copytree(prepared, unfinished, copy_function=shutil.copy)
        else:
            _assemble(unfinished, stamp)
        for part in PARTS:
            _move_into_place(unfinished / part, directory / part)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _move_into_place(source: Path, target: Path) -> None:
    if target.exists():
        target.rename(source.with_name(f"{source.name}-before"))
    source.rename(target)


def _assemble(directory: Path, stamp: str) -> None:
    from feedwater.inject import bundle

    package = Path(feedwater.__file__).parent
    site = directory / "site"
    shutil.copytree(
        package, site / "feedwater", ignore=shutil.ignore_patterns("__pycache__", "*.pyi", "site", "sweep")
    )
    shutil.copy(package / "inject/site/sitecustomize.py", site)
    bundle.compile_sources(site)
    bundle.build(directory / "relay")
    (directory / STAMP).write_text(stamp)
    _make_readable(directory)


def _stamp_of_sources() -> str:
    """Return the version and the newest modification time: sources under development keep their version."""
    newest = max(path.stat().st_mtime_ns for path in Path(feedwater.__file__).parent.rglob("*.py"))
    return f"{feedwater.__version__} {newest}\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _make_readable(directory: Path) -> None:
    """Let every user read the files: the trainer runs under another uid."""
    for path, _, names in os.walk(directory):
        os.chmod(path, 0o755)
        for name in names:
            file = Path(path, name)
            file.chmod(file.stat().st_mode | 0o444)
