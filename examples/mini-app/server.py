"""The server of a Telegram Mini App that chats with the network: files, and nothing else.

    COCOON_PACKAGE=…/attestation COCOON_RELEASE=release.json \\
        COCOON_SCHEDULER=https://scheduler.example COCOON_MAX_PRICE=2000000 python server.py

``COCOON_PACKAGE`` is the folder of the npm package ``@cocoon/attestation``,
``COCOON_RELEASE`` the manifest of the release whose machines may answer. The page verifies
and seals by itself, so this server sees no question and no answer; whoever runs it could
serve another page, and is trusted for that alone. Put it behind a server that speaks TLS,
as Telegram asks.
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


def serve(
    address: tuple[str, int],
    package: Path,
    release: Path,
    scheduler: str,
    max_price: int,
    page: Path = PAGE,
) -> ThreadingHTTPServer:
    """The files of ``page`` and ``package``, and which network to ask."""
    network = json.dumps({"scheduler": scheduler, "maxPrice": max_price}).encode()
    policy = (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        f"connect-src 'self' {scheduler}; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors https://web.telegram.org"
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/") or "index.html"
            folder, name = page, path
            if path.startswith("package/"):
                folder, name = package, path.removeprefix("package/")
            file = release if path == "release.json" else folder / name
            if path == "network.json":
                self._reply(200, network, TYPES[".json"])
            elif "/" in name or file.suffix not in TYPES or not file.is_file():
                self._reply(404, b"no such page", "text/plain")
            else:
                self._reply(200, file.read_bytes(), TYPES[file.suffix])

        def _reply(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-security-policy", policy)
            self.send_header("referrer-policy", "no-referrer")
            self.send_header("x-content-type-options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: an address is the user's."""

    return ThreadingHTTPServer(address, Handler)


if __name__ == "__main__":
    server = serve(
        ("127.0.0.1", int(os.environ.get("PORT", "8000"))),
        Path(os.environ["COCOON_PACKAGE"]),
        Path(os.environ["COCOON_RELEASE"]),
        os.environ["COCOON_SCHEDULER"].rstrip("/"),
        int(os.environ["COCOON_MAX_PRICE"]),
        Path(os.environ.get("COCOON_PAGE", PAGE)),
    )
    print(f"page http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
