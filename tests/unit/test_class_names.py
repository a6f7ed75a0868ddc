"""One class, one name: a reader who searches for a name finds one thing."""

from __future__ import annotations

import ast
from collections import defaultdict

from feedwater.v1 import feedwater_pb2 as pb
from tests import ROOT

SIDES = {"client": ROOT / "client/feedwater", "service": ROOT / "service/feedwater_service"}
MESSAGES = frozenset(pb.DESCRIPTOR.message_types_by_name)
"""A message of the wire may be a class on each side: neither side may import the other's."""
ALLOWED = {
    "AppliedReport": "the message ReportAppliedRequest, as the sidecar reads it and FakeTransport records it",
}
"""Other names that stand for two classes, each with the reason."""


def test_no_name_stands_for_two_classes_but_those_with_a_reason() -> None:
    """Doubled names are messages of the wire, once on each side, or listed; and the list holds no others."""
    places = _places()
    doubled = {name: found for name, found in places.items() if len(found) > 1}
    listed = {name: found for name, found in doubled.items() if not _is_message_of_both_sides(name, found)}
    assert listed.keys() == ALLOWED.keys(), listed
    assert all(len(reason.split()) > 5 for reason in ALLOWED.values())


def _places() -> dict[str, list[tuple[str, str]]]:
    """Return the side and the file of every class by its name, generated code apart."""
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for side, root in SIDES.items():
        for file in sorted(root.rglob("*.py")):
            if root / "v1" in file.parents:
                continue
            classes = [
                node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
            ]
            for node in classes:
                places[node.name].append((side, str(file.relative_to(ROOT))))
    return places


def _is_message_of_both_sides(name: str, found: list[tuple[str, str]]) -> bool:
    return name in MESSAGES and sorted(side for side, _ in found) == sorted(SIDES)
