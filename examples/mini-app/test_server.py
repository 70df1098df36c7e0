"""What the Mini App's server gives out, and what not."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import serve

SCHEDULER = "https://scheduler.example"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    package = tmp_path / "package"
    package.mkdir()
    (package / "client.js").write_text("export {};")
    (package / "README.md").write_text("no file of a page")
    (tmp_path / "outside.js").write_text("secret")
    release = tmp_path / "release.json"
    release.write_text("{}")
    server = serve(("127.0.0.1", 0), package, release, SCHEDULER, 5)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def get(port: int, path: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    return response, response.read()


def test_the_page_asks_the_scheduler_and_nobody_else(port: int) -> None:
    page, body = get(port, "/")
    assert page.status == 200 and b"app.js" in body
    policy = page.headers["content-security-policy"]
    assert f"connect-src 'self' {SCHEDULER};" in policy
    assert "script-src 'self' 'wasm-unsafe-eval';" in policy, "no script of anybody else's"
    _, told = get(port, "/network.json")
    assert json.loads(told) == {"scheduler": SCHEDULER, "maxPrice": 5}


def test_the_package_is_there_and_nothing_else_of_the_disk(port: int) -> None:
    for path in ("/app.js", "/policy.js", "/package/client.js", "/release.json"):
        assert get(port, path)[0].status == 200, path
    for path in (
        "/../server.py",
        "/%2e%2e/server.py",
        "/server.py",
        "/page/index.html",
        "/package/../outside.js",
        "/package/README.md",
        "/package/",
    ):
        assert get(port, path)[0].status == 404, path
    assert get(port, "/v1/chat/completions", "POST")[0].status == 501, "it passes nothing on"
