"""``feedwater install-client``: lay the client into a volume, for a training image that has no Feedwater.

    DIRECTORY/site    for ``PYTHONPATH``: a ``sitecustomize`` and the package, run by the image's own Python
    DIRECTORY/relay   what the relay runs on, whatever the image has (see `feedwater.inject.portable`)

`feedwater.inject.brought` is the other side: it finds the relay beside the package.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import feedwater

PREPARED = Path(sys.prefix, "share/feedwater/client")
"""Made once, when the image was built; a pod's start then takes a copy. Elsewhere it is put together anew."""
PARTS = ("relay", "site")
"""In the order in which they come into place: who finds ``site`` finds the relay that belongs to it."""
STAMP = "site/feedwater-client"
UNFINISHED = ".unfinished"


def main(directory: str) -> int:
    """Install the client into ``directory`` and say so, or what went wrong.

    Returns:
        0 in either case: an init container that fails keeps the training from starting, while a training
        that finds no client goes on without one.
    """
    try:
        is_new = install(Path(directory))
    except OSError as error:
        print(f"feedwater install-client: {error}; training goes on without Feedwater", file=sys.stderr)
        return 0
    print(f"client {feedwater.__version__} {'installed' if is_new else 'is already'} in {directory}")
    return 0


def install(directory: Path, prepared: Path = PREPARED) -> bool:
    """Install the client; return False if it is there already.

    Interrupted at any point, it leaves nothing that would be used; the next call clears up and goes on.

    Raises:
        OSError: ``directory`` cannot be written to, or there is no ``ldd`` to put the client together.
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
            _make(unfinished, stamp)
        for part in PARTS:
            _put_in_place(unfinished / part, directory / part)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _put_in_place(made: Path, place: Path) -> None:
    if place.exists():
        place.rename(made.with_name(f"{made.name}-before"))
    made.rename(place)


def _make(directory: Path, stamp: str) -> None:
    from feedwater.inject import portable

    package = Path(feedwater.__file__).parent
    site = directory / "site"
    shutil.copytree(
        package, site / "feedwater", ignore=shutil.ignore_patterns("__pycache__", "*.pyi", "site", "sweep")
    )
    shutil.copy(package / "inject/site/sitecustomize.py", site)
    portable.compile_sources(site)
    portable.gather(directory / "relay")
    (directory / STAMP).write_text(stamp)
    _let_everybody_read(directory)


def _stamp_of_sources() -> str:
    """Return what tells one client from another; a development version's files change under one number."""
    newest = max(path.stat().st_mtime_ns for path in Path(feedwater.__file__).parent.rglob("*.py"))
    return f"{feedwater.__version__} {newest}\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _let_everybody_read(directory: Path) -> None:
    """The trainer's user is another one."""
    for path, _, names in os.walk(directory):
        os.chmod(path, 0o755)
        for name in names:
            file = Path(path, name)
            file.chmod(file.stat().st_mode | 0o444)
