"""The page's files and types: complete, and about messages that exist."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.types import Verdict
from feedwater_service.web.http import HttpRequest
from feedwater_service.web.static import ASSETS, FILES, routes
from tests import ROOT

STATE = (ROOT / "service/web/src/state.ts").read_text()
WORDS = (ROOT / "service/web/src/words.ts").read_text()
INTERFACES = dict(re.findall(r"^export interface (\w+) \{\n(.*?)^\}", STATE, re.MULTILINE | re.DOTALL))
INT64 = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def test_every_built_file_is_served() -> None:
    """What the build writes and what has a path is the same."""
    assert {name for name, _ in FILES.values()} == {file.name for file in ASSETS.iterdir()}


def test_files_are_read_when_asked_for(tmp_path: Path) -> None:
    """Making the routes opens nothing: a file may come later."""
    handler = routes(tmp_path)["/page.css"]
    (tmp_path / "page.css").write_text("p {}")
    assert asyncio.run(handler(HttpRequest("GET", "/page.css", {}))).body == b"p {}"


def test_refused_compression_is_not_used(tmp_path: Path) -> None:
    """``gzip;q=0`` means no, as does silence."""
    (tmp_path / "page.css").write_text("p {}")
    handler = routes(tmp_path)["/page.css"]
    for headers in ({}, {"accept-encoding": "gzip;q=0"}, {"accept-encoding": "br"}):
        answer = asyncio.run(handler(HttpRequest("GET", "/page.css", headers)))
        assert (answer.body, "Content-Encoding" in answer.headers) == (b"p {}", False)


@pytest.mark.parametrize("name", INTERFACES)
def test_page_reads_only_fields_that_the_proto_has(name: str) -> None:
    """A misspelt name would always be absent, and read as zero; a 64-bit number comes as text."""
    fields = pb.DESCRIPTOR.message_types_by_name[name].fields_by_name
    for field, kind in re.findall(r"^  (\w+)\?: ([^;]+);", INTERFACES[name], re.MULTILINE):
        assert field in fields, f"{name}.{field}"
        assert (kind == "Int64") == (fields[field].cpp_type in INT64), f"{name}.{field}: {kind}"


def test_page_has_words_for_every_verdict_outcome_mode() -> None:
    """A new name in the proto needs words here."""
    for verdict in Verdict:
        assert verdict is Verdict.UNKNOWN or f"  {verdict.value}: {{" in WORDS
    for name in [*pb.Outcome.keys(), *pb.Mode.keys()]:
        assert name.endswith("UNSPECIFIED") or f"  {name}: " in WORDS
