"""The map in docs/README.md shows the tree."""

from __future__ import annotations

import re

from tests import ROOT

SOURCES = (ROOT / "client/feedwater", ROOT / "service/feedwater_service")


def test_map_names_every_package_and_no_other() -> None:
    """Each package of the client and of the service is a line of the map, at its depth."""
    assert sorted(_mapped()) == sorted(
        str(found.parent.relative_to(ROOT)) for source in SOURCES for found in source.rglob("__init__.py")
    )


def test_files_in_the_map_exist() -> None:
    """Each file that a line of the map begins with is there."""
    missing = [path for path in _paths() if path.endswith(".py") and not (ROOT / path).is_file()]
    assert missing == []


def _mapped() -> list[str]:
    """Return the folders of the map below the two source roots, and these."""
    roots = tuple(str(source.relative_to(ROOT)) for source in SOURCES)
    return [path.rstrip("/") for path in _paths() if path.startswith(roots) and path.endswith("/")]


def _paths() -> list[str]:
    """Return what the lines of the map name, with the folders that they are indented under."""
    page = (ROOT / "docs/README.md").read_text()
    (drawn,) = re.findall(r"^```text\n(client/.*?)^```", page, re.DOTALL | re.MULTILINE)
    above: list[str] = []
    paths = []
    for line in drawn.splitlines():
        if not line:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"  +", line.strip())[0].split(", ")
        paths += ["".join(above[:depth]) + name for name in names]
        above = [*above[:depth], names[0]]
    return paths
