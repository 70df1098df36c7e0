"""Whom the Mini App's server lets pass, and what it passes on."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode

import pytest

from server import MAX_AGE, Refused, serve, user_of

TOKEN = "7:token"


def signed(token: str = TOKEN, **changed: str) -> str:
    """As Telegram signs what it hands to a page."""
    fields = {"auth_date": str(int(time.time())), "query_id": "q", "user": '{"id":5}', **changed}
    text = "\n".join(f"{name}={fields[name]}" for name in sorted(fields))
    secret = hmac.new(b"WebAppData", token.encode(), hashlib.sha256).digest()
    return urlencode({**fields, "hash": hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()})


def test_only_what_telegram_signed_names_a_user() -> None:
    now = time.time()
    assert user_of(signed(), TOKEN, now) == {"id": 5}
    for other, why in [
        (signed(token="8:another"), "did not sign"),
        (signed().replace("%3A5%7D", "%3A6%7D"), "did not sign"),
        (signed() + "&extra=1", "did not sign"),
        (signed() + "&query_id=q", "twice"),
        (signed().rsplit("&hash", 1)[0], "did not sign"),
        ("", "did not sign"),
        (signed(user="{}"), "for nobody"),
        (signed(auth_date=str(int(now) - MAX_AGE - 10)), "open the app again"),
        (signed(auth_date=str(int(now) + 3600)), "open the app again"),
    ]:
        with pytest.raises(Refused, match=why):
            user_of(other, TOKEN, now)


class Gateway(BaseHTTPRequestHandler):
    asked: list[tuple[str, bytes, str | None]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.path, body, self.headers.get("authorization")))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: {}\n\ndata: [DONE]\n\n")


@pytest.fixture
def base() -> Iterator[str]:
    gateway = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server = serve(("127.0.0.1", 0), TOKEN, f"http://127.0.0.1:{gateway.server_port}")
    for one in (gateway, server):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    gateway.shutdown()


def ask(base: str, path: str, init_data: str | None, body: bytes | None) -> tuple[int, bytes]:
    headers = {} if init_data is None else {"authorization": f"tma {init_data}"}
    request = urllib.request.Request(base + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def test_a_users_request_passes_and_a_strangers_does_not(base: str) -> None:
    Gateway.asked.clear()
    body = json.dumps({"model": "m", "messages": []}).encode()
    for init_data in (None, "", signed(token="8:another")):
        status, said = ask(base, "/v1/chat/completions", init_data, body)
        assert status == 401 and b"error" in said
        assert ask(base, "/v1/models", init_data, None)[0] == 401
    assert Gateway.asked == []
    status, said = ask(base, "/v1/chat/completions", signed(), body)
    assert (status, said) == (200, b"data: {}\n\ndata: [DONE]\n\n")
    assert Gateway.asked == [("/v1/chat/completions", body, None)], "who asks stays there"
    assert ask(base, "/v1/embeddings", signed(), body)[0] == 404


def test_the_page_is_there_and_nothing_else_of_the_disk(base: str) -> None:
    assert ask(base, "/", None, None)[0] == 200
    assert ask(base, "/app.js", None, None)[0] == 200
    for path in ("/../server.py", "/%2e%2e/server.py", "/server.py", "/page/index.html"):
        assert ask(base, path, None, None)[0] == 404
