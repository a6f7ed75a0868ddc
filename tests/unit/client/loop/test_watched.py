"""Each part of a watched loader's state is written by one module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import feedwater
from feedwater.loop.change.tuning import Tuning
from feedwater.loop.history import History
from feedwater.loop.measure.main_process_timer import MainProcessLoads
from feedwater.loop.measure.recording import Recording
from feedwater.loop.watched import WatchedLoader

LOOP = Path(feedwater.__file__).parent / "loop"


def assigned(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the attributes that a module assigns, and of what: ``tuning.chosen = …``."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for part in ast.walk(target) if isinstance(target, (ast.Attribute, ast.Tuple)) else ():
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    yield ast.unparse(part.value), part.attr


@pytest.mark.parametrize(
    ("part", "writer"),
    [
        (Recording, "measure/recording.py"),
        (MainProcessLoads, "measure/main_process_timer.py"),
        (Tuning, "change/tuning.py"),
        (History, "history.py"),
    ],
)
def test_a_part_is_assigned_in_the_module_that_defines_it(part: type, writer: str) -> None:
    """No other module of the loop assigns one of its fields, on whatever it calls the part."""
    names = {field.name for field in fields(part)}
    others = [path for path in LOOP.rglob("*.py") if path != LOOP / writer]
    assert names
    assert [
        (path.name, owner, name)
        for path in others
        for owner, name in assigned(path)
        if name in names and owner.rpartition(".")[2] in {"recording", "tuning", "history", "main_process"}
    ] == []


def test_the_whole_is_assigned_where_its_docstring_says() -> None:
    """The options by `watch`, loader and identity by the registry, the description by registration."""
    writers = {
        (name, path.relative_to(LOOP).as_posix())
        for path in LOOP.rglob("*.py")
        for owner, name in assigned(path)
        if owner == "watched" and name in {field.name for field in fields(WatchedLoader)}
    }
    assert writers == {
        ("options", "attach/watch.py"),
        ("loader", "registry.py"),
        ("identity", "registry.py"),
        ("description", "boundary/registration.py"),
    }
