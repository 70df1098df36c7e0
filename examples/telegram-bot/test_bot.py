"""The bot between a stand-in of Telegram's Bot API and a stand-in of a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

import pytest

from bot import Bot, BotApi
from cocoon import AsyncOpenAI


class Telegram:
    """What users write goes in, what the bot says comes out, in order."""

    def __init__(self) -> None:
        self.updates: queue.Queue[dict[str, Any]] = queue.Queue()
        self.said: queue.Queue[tuple[str, int, str]] = queue.Queue()
        self.busy = 1
        self._count = 0

    def write(self, chat: int, text: str) -> None:
        self._count += 1
        message = {"message_id": self._count, "chat": {"id": chat}, "text": text}
        self.updates.put({"update_id": self._count, "message": message})

    def called(self, method: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        match method:
            case "getUpdates":
                try:
                    return 200, {"ok": True, "result": [self.updates.get(timeout=0.2)]}
                except queue.Empty:
                    return 200, {"ok": True, "result": []}
            case "sendMessage" if self.busy:
                self.busy -= 1
                return 429, {"ok": False, "description": "slow", "parameters": {"retry_after": 0}}
            case "sendMessage" | "editMessageText" if 0 < len(given["text"]) <= 4096:
                self.said.put((method, given["chat_id"], given["text"]))
                return 200, {"ok": True, "result": {"message_id": 1000 + given["chat_id"]}}
            case _:
                return 400, {"ok": False, "description": f"bad {method}"}


class Gateway:
    """Answers with the number of messages that it was sent, word by word."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []


def serve(telegram: Telegram, gateway: Gateway) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("cocoon-request", "mine")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            match self.path:
                case "/v1/models":
                    models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in "ab"]
                    told: dict[str, Any] = {"object": "list", "data": models}
                case "/cocoon/usage":
                    records = [{"request": name, "tokens": 14, "cost": 14000} for name in ("mine", "other")]
                    told = {"paid": True, "requests": records}
                case _:
                    check = {"name": "mrtd", "found": "00ff", "passed": True}
                    told = {"workers": [{"worker": "ab" * 32, "checks": [check]}]}
            self.reply(200, json.dumps(told).encode())

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path.startswith("/botTOKEN/"):
                status, answer = telegram.called(self.path.removeprefix("/botTOKEN/"), given)
                self.reply(status, json.dumps(answer).encode())
                return
            gateway.asked.append(given["messages"])
            if "refuse" in given["messages"][-1]["content"]:
                error = {"error": {"message": "rtmr1 differs", "type": "x", "code": "worker_not_trusted"}}
                self.reply(502, json.dumps(error).encode())
                return
            text = f"{given['model']} heard {len(given['messages'])}" + "." * 5000
            parts = [text[at : at + 1500] for at in range(0, len(text), 1500)]
            chunk = lambda part: {
                "id": "x", "object": "chat.completion.chunk", "created": 0, "model": "a",
                "choices": [{"index": 0, "delta": {"content": part}}],
            }
            events = [f"data: {json.dumps(chunk(part))}\n\n" for part in parts]
            self.reply(200, ("".join(events) + "data: [DONE]\n\n").encode(), "text/event-stream")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def world() -> Iterator[tuple[Telegram, Gateway]]:
    telegram, gateway = Telegram(), Gateway()
    with running(telegram, gateway):
        yield telegram, gateway


@contextmanager
def running(telegram: Telegram, gateway: Gateway, real: Optional[str] = None) -> Iterator[None]:
    """The bot, between both; or before a gateway that is none of ours."""
    server = serve(telegram, gateway)
    base = f"http://127.0.0.1:{server.server_port}"
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = queue.Queue()

    async def run() -> None:
        async with AsyncOpenAI(gateway=real or base, max_retries=0) as client:
            task = asyncio.create_task(Bot(BotApi("TOKEN", base), client, edit_every=0).run())
            started.put((asyncio.get_running_loop(), task))
            await asyncio.wait([task])

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    loop, task = started.get(timeout=10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        server.shutdown()


def hear(telegram: Telegram, count: int) -> list[tuple[str, int, str]]:
    return [telegram.said.get(timeout=20) for _ in range(count)]


def test_an_answer_grows_by_edits_and_goes_on_in_a_second_message(world: tuple[Telegram, Gateway]) -> None:
    telegram, _ = world
    telegram.write(7, "hello")
    said = hear(telegram, 5)
    assert said[0] == ("sendMessage", 7, "…"), "said again after Telegram was busy"
    edits = [text for method, _, text in said if method == "editMessageText"]
    assert edits == sorted(edits, key=len) and edits[0].startswith("a heard 1")
    assert len(edits[-1]) == 4096
    assert said[-1][0] == "sendMessage" and len(edits[-1]) + len(said[-1][2]) == 5009


def test_each_chat_is_a_conversation_of_its_own(world: tuple[Telegram, Gateway]) -> None:
    telegram, gateway = world
    for chat, text in [(1, "one"), (1, "two"), (2, "other"), (1, "/new"), (1, "again")]:
        telegram.write(chat, text)
        while True:
            method, _, said = telegram.said.get(timeout=20)
            if said == "Forgotten." or (method == "sendMessage" and said.strip(".") == "" and said != "…"):
                break
    heard = [[message["content"][:9] for message in messages] for messages in gateway.asked]
    assert heard == [["one"], ["one", "a heard 1", "two"], ["other"], ["again"]]


@pytest.mark.skipif("COCOON_GATEWAY" not in os.environ, reason="no gateway runs")
def test_a_verified_worker_answers_and_is_shown() -> None:
    telegram = Telegram()
    with running(telegram, Gateway(), os.environ["COCOON_GATEWAY"]):
        telegram.write(1, "/model cocoon-tiny")
        assert hear(telegram, 1)[0][2] == "Asking cocoon-tiny."
        telegram.write(1, "Recite Genesis 1:1.")
        verse = "In the beginning God created the heaven and the earth."
        while telegram.said.get(timeout=60)[2] != verse:
            pass
        telegram.write(1, "/verify")
        proof = telegram.said.get(timeout=20)[2]
        assert "✓ mrtd: " in proof and "✗" not in proof


def test_commands_tell_models_and_what_was_verified(world: tuple[Telegram, Gateway]) -> None:
    telegram, gateway = world
    for text, expected in [
        ("/start", "/verify"),
        ("/models", "• a\n   b"),
        ("/model b", "Asking b."),
        ("/model c", "There is no 'c'."),
        ("/verify@some_bot", "worker abababababababab…\n✓ mrtd: 00ff"),
        ("/cost", "Nothing was paid."),
        ("please refuse", "No answer: rtmr1 differs"),
    ]:
        telegram.write(1, text)
        assert expected in telegram.said.get(timeout=20)[2]
    telegram.write(1, "hello")
    said = hear(telegram, 5)
    assert said[1][2].startswith("b heard 1"), "what was refused is no part of it"
    telegram.write(1, "/cost")
    assert hear(telegram, 1)[0][2] == "14,000 nanotons for 14 tokens"
