"""The live page: four files, read and compressed at each request.

The page of most sidecars is never opened. Reading and compressing 90 KB takes 4 ms; a cache would take memory
in every pod.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from feedwater_service.web.http import Handler, HttpRequest, HttpResponse

ASSETS = Path(__file__).with_name("assets")
"""Built from service/web/ by `make page`."""
FILES: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/licenses.txt": ("licenses.txt", "text/plain; charset=utf-8"),
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
COMPRESSION = 6
"""zlib's default level: 9 takes twice the time for 0.2 % less."""


def routes(assets: Path = ASSETS) -> dict[str, Handler]:
    """Return the handler of each path of the page."""
    return {path: _serving(assets / name, content_type) for path, (name, content_type) in FILES.items()}


def _serving(file: Path, content_type: str) -> Handler:
    async def serve(request: HttpRequest) -> HttpResponse:
        content = file.read_bytes()
        tag = f'W/"{sha256(content).hexdigest()[:16]}"'
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            # The browser keeps the file but revalidates it each time, so a new version shows at once.
            "Cache-Control": "no-cache",
            "ETag": tag,
            "Vary": "Accept-Encoding",
        }
        if request.lists("if-none-match", tag):
            return HttpResponse(b"", content_type, HTTPStatus.NOT_MODIFIED, headers)
        if request.lists("accept-encoding", "gzip"):
            content = gzip.compress(content, COMPRESSION, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return HttpResponse(content, content_type, headers=headers)

    return serve
