"""The server of a Telegram Mini App: a static page, and the way to a gateway for users
that Telegram vouches for.

    TELEGRAM_TOKEN=… COCOON_GATEWAY=http://127.0.0.1:8080 python server.py

Telegram signs who opened the page (initData); every request shows it, and is refused
without. Put it behind a server that speaks TLS, as Telegram asks. Between page and
gateway this server reads along: run it where you would run the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self' https://telegram.org; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)

# How long what Telegram signed counts, in seconds, and the most that is sent on.
MAX_AGE = 3600
MAX_BODY = 4 << 20


class Refused(Exception):
    """Why a request is not the user's that it says."""


def user_of(init_data: str, token: str, now: float) -> dict[str, Any]:
    """The user whom Telegram vouches for.

    Source: https://core.telegram.org/bots/webapps, "Validating data received via the
    Mini App".
    """
    pairs = parse_qsl(init_data, keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused("a field is there twice")
    shown = fields.pop("hash", "")
    text = "\n".join(f"{name}={fields[name]}" for name in sorted(fields))
    secret = hmac.digest(b"WebAppData", token.encode(), "sha256")
    expected = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), shown.encode()):
        raise Refused("Telegram did not sign this")
    age = now - int(fields.get("auth_date", "0"))
    if not -60 <= age <= MAX_AGE:
        raise Refused(f"signed {age:.0f} seconds ago: open the app again")
    user: dict[str, Any] = json.loads(fields.get("user", "{}"))
    if "id" not in user:
        raise Refused("signed for nobody")
    return user


def serve(address: tuple[str, int], token: str, gateway: str) -> ThreadingHTTPServer:
    """For ``token``'s bot, in front of ``gateway``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith(("/v1/", "/cocoon/")):
                self._pass_on(b"")
                return
            name = urlsplit(self.path).path.strip("/") or "index.html"
            file = PAGE / name
            if "/" in name or not file.is_file():
                self._refuse(404, "no such page")
                return
            self._reply(200, file.read_bytes(), TYPES[file.suffix])

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > MAX_BODY or self.path != "/v1/chat/completions":
                self.close_connection = True
                self._refuse(404 if length <= MAX_BODY else 413, "not through here")
                return
            self._pass_on(self.rfile.read(length))

        def _pass_on(self, body: bytes) -> None:
            scheme, _, init_data = self.headers.get("authorization", "").partition(" ")
            try:
                if scheme != "tma":
                    raise Refused("open this from Telegram")
                user_of(init_data, token, time.time())
            except (Refused, ValueError) as refused:
                self._refuse(401, str(refused))
                return
            host = urlsplit(gateway)
            connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=300)
            try:
                # Who asks stays here.
                headers = {"content-type": "application/json"} if body else {}
                connection.request(self.command, self.path, body or None, headers)
                self._relay(connection.getresponse())
            except OSError:
                self._refuse(502, "the gateway is out of reach")
            finally:
                connection.close()

        def _relay(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(answer.status)
            for name in ("content-type", "cocoon-request", "cocoon-cost"):
                if value := answer.headers.get(name):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            while part := answer.read1(1 << 16):
                self.wfile.write(part)

        def _refuse(self, status: int, message: str) -> None:
            error = {"message": message, "type": "mini_app", "param": None, "code": None}
            self._reply(status, json.dumps({"error": error}).encode(), "application/json")

        def _reply(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-security-policy", POLICY)
            self.send_header("x-content-type-options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: an address is the user's."""

    return ThreadingHTTPServer(address, Handler)


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    gateway = os.environ.get("COCOON_GATEWAY", "http://127.0.0.1:8080")
    serve(("127.0.0.1", port), os.environ["TELEGRAM_TOKEN"], gateway).serve_forever()
