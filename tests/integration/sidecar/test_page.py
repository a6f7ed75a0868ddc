"""The page as files over HTTP: small, strict, asked about each time, and not kept in memory."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from feedwater_service.web.static import FILES

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Process

PAYLOAD_BYTES = 400_000
COMPRESSED_BYTES = 120_000


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/licenses.txt", "text/plain; charset=utf-8"),
    ],
)
def test_files_come_with_their_type_and_a_strict_policy(
    sidecar: Process, path: str, content_type: str
) -> None:
    """Scripts, styles and questions of the sidecar alone, nothing inline, in no frame, never sniffed."""
    status, headers, body = sidecar.http(path)
    assert (status, headers["content-type"]) == (200, content_type)
    policy = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
    assert "frame-ancestors 'none'; base-uri 'none'; form-action 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert int(headers["content-length"]) == len(body) > 0


def test_metrics_keep_their_own_policy(sidecar: Process) -> None:
    """What is no page allows nothing at all, and is never stored."""
    _, headers, _ = sidecar.http("/api/v1/state")
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"


def test_known_file_is_not_sent_again(sidecar: Process) -> None:
    """The tag of the first answer makes the second one empty; another tag does not."""
    _, headers, body = sidecar.http("/page.js")
    assert headers["cache-control"] == "no-cache"
    status, again, nothing = sidecar.http("/page.js", If_None_Match=f'"other", {headers["etag"]}')
    assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])
    assert "content-length" not in again
    assert sidecar.http("/page.js", If_None_Match='"other"')[2] == body


def test_connection_serves_on_after_a_304(sidecar: Process) -> None:
    """An answer without a body and a length does not keep the reader waiting for one."""
    tag = sidecar.http("/page.css")[1]["etag"]
    for _ in range(3):
        assert sidecar.http("/page.css", If_None_Match=tag)[0] == 304


@pytest.mark.parametrize("accepted", ["gzip", "gzip, deflate, br, zstd"])
def test_browsers_get_it_compressed(sidecar: Process, accepted: str) -> None:
    """The same bytes, and a cache must know that there are two forms."""
    _, headers, body = sidecar.http("/page.js", Accept_Encoding=accepted)
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(body) == sidecar.http("/page.js")[2]


def test_payload_is_small(sidecar: Process) -> None:
    """All files of the page, and the state of no loader: under 400 KB, compressed under 120 KB."""
    paths = [*FILES, "/api/v1/state"]
    assert sum(len(sidecar.http(path)[2]) for path in paths) < PAYLOAD_BYTES
    assert sum(len(sidecar.http(path, Accept_Encoding="gzip")[2]) for path in paths) < COMPRESSED_BYTES


def test_page_names_no_other_host(sidecar: Process) -> None:
    """No address with a host is loaded; those in the libraries are names of XML, or in comments."""
    page = sidecar.http("/")[2].decode()
    assert "//" not in page.replace("<!doctype html>", "").replace("http://www.w3.org/2000/svg", "")
    assert b"url(" not in sidecar.http("/page.css")[2]


def test_libraries_keep_their_licences(sidecar: Process) -> None:
    """Both are MIT, which asks for its text to be handed on."""
    text = sidecar.http("/licenses.txt")[2].decode()
    assert "uplot" in text
    assert "preact" in text
    assert text.count("Permission is hereby granted, free of charge") == 2


@pytest.mark.parametrize("path", ["/web/", "/page.js/", "/page.js.map", "/src/page.tsx", "//", "/%2e%2e/"])
def test_nothing_else_is_there(sidecar: Process, path: str) -> None:
    """No listing, no source, no file beside the four."""
    assert sidecar.http(path)[0] == 404


def test_serving_the_page_leaves_no_memory_behind(sidecar: Process) -> None:
    """A hundred readers do not make the sidecar keep a hundredth of what they got."""
    paths = [path for path in FILES if path != "/"]
    for path in paths:
        sidecar.http(path, Accept_Encoding="gzip")
    before = _resident_bytes(sidecar.popen.pid)
    for _ in range(100):
        for path in paths:
            sidecar.http(path, Accept_Encoding="gzip")
    assert _resident_bytes(sidecar.popen.pid) - before < 1 << 20


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
