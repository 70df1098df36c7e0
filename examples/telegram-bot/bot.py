"""A Telegram bot whose answers come from machines that proved what they run.

    TELEGRAM_TOKEN=… COCOON_GATEWAY=http://127.0.0.1:8080 python bot.py

Each chat is a conversation of its own, kept in memory and nowhere else; /new forgets it.
Telegram itself reads what its users write to bots. From here on nobody does: the Mini
App beside this example goes without Telegram's servers too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionUserMessageParam

from cocoon import AsyncOpenAI

HELP = """Write, and a machine that proved what it runs will answer.

/models  what there is to ask
/model NAME  ask that one from now on
/verify  what was verified
/cost  what this chat has cost
/new  forget this conversation"""

# Telegram's own limits: characters of a message, and edits of one in a second.
LONGEST = 4096
EDIT_EVERY = 1.0
KEPT_TURNS = 40


class BotApi:
    """https://core.telegram.org/bots/api, as far as it is used here."""

    def __init__(self, token: str, base: str = "https://api.telegram.org") -> None:
        self._base = f"{base}/bot{token}"

    async def call(self, method: str, **parameters: Any) -> Any:
        """Waits as long as Telegram asks for, and then says it again."""
        while True:
            answer = await asyncio.to_thread(self._post, method, parameters)
            if answer["ok"]:
                return answer["result"]
            wait = answer.get("parameters", {}).get("retry_after")
            if wait is None:
                raise RuntimeError(f"{method}: {answer.get('description')}")
            await asyncio.sleep(wait)

    def _post(self, method: str, parameters: dict[str, Any]) -> Any:
        body = json.dumps(parameters).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self._base}/{method}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=70) as response:
                return json.load(response)
        except urllib.error.HTTPError as refused:
            return json.load(refused)


@dataclass
class Chat:
    """One conversation; its turns are taken one after the other."""

    model: str
    messages: list[ChatCompletionMessageParam] = field(default_factory=list)
    tokens: int = 0
    cost: int = 0  # Nanotons.
    uncounted: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Bot:
    def __init__(self, api: BotApi, client: AsyncOpenAI, edit_every: float = EDIT_EVERY) -> None:
        self._api, self._client, self._edit_every = api, client, edit_every
        self._chats: dict[int, Chat] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Polls until it is cancelled."""
        offset = 0
        while True:
            try:
                updates = await self._api.call(
                    "getUpdates", offset=offset, timeout=50, allowed_updates=["message"]
                )
            # A proxy of theirs may answer with a page.
            except (OSError, ValueError) as error:
                print(f"Telegram is out of reach: {error}", file=sys.stderr)
                await asyncio.sleep(3)
                continue
            for update in updates:
                offset = update["update_id"] + 1
                message = update.get("message", {})
                if "text" in message:
                    task = asyncio.create_task(self._heard(message["chat"]["id"], message["text"]))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)

    async def _heard(self, id: int, text: str) -> None:
        try:
            if id not in self._chats:
                self._chats[id] = Chat((await self._models())[0])
            chat = self._chats[id]
            async with chat.turn:
                await self._take_turn(id, chat, text)
        except openai.APIError as error:
            told = error.body if isinstance(error.body, dict) else {}
            await self._say(id, f"No answer: {told.get('message', error.message)}"[:LONGEST])
        except Exception as error:  # One chat's trouble is not the others'.
            print(f"a turn failed: {type(error).__name__}: {error}", file=sys.stderr)

    async def _take_turn(self, id: int, chat: Chat, text: str) -> None:
        command, _, argument = text.partition(" ")
        match command.split("@")[0]:
            case "/start" | "/help":
                await self._say(id, HELP)
            case "/new":
                chat.messages.clear()
                await self._say(id, "Forgotten.")
            case "/models":
                lines = [f"{'•' if name == chat.model else '  '} {name}" for name in await self._models()]
                await self._say(id, "\n".join(lines))
            case "/model":
                known = argument in await self._models()
                chat.model = argument if known else chat.model
                await self._say(id, f"Asking {chat.model}." if known else f"There is no {argument!r}.")
            case "/verify":
                await self._say(id, verified(await self._client.trust()))
            case "/cost":
                await self._count(chat)
                paid = f"{chat.cost:,} nanotons for {chat.tokens:,} tokens" if chat.cost else "Nothing was paid."
                await self._say(id, paid)
            case _:
                await self._answer(id, chat, text)

    async def _answer(self, id: int, chat: Chat, text: str) -> None:
        question: ChatCompletionUserMessageParam = {"role": "user", "content": text}
        stream = await self._client.chat.completions.create(
            model=chat.model,
            messages=[*chat.messages, question],
            max_completion_tokens=512,
            stream=True,
        )
        sent = await self._say(id, "…")
        answer, shown, edited = "", "…", time.monotonic()
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    answer += choice.delta.content or ""
                if answer[:LONGEST].strip() and time.monotonic() - edited >= self._edit_every:
                    shown = await self._show(id, sent, shown, answer[:LONGEST])
                    edited = time.monotonic()
        await self._show(id, sent, shown, answer[:LONGEST] or "(no words)")
        for start in range(LONGEST, len(answer), LONGEST):
            await self._say(id, answer[start : start + LONGEST])
        chat.messages += [question, {"role": "assistant", "content": answer}]
        del chat.messages[:-KEPT_TURNS]
        chat.uncounted.add(stream.response.headers.get("cocoon-request", ""))
        await self._count(chat)

    async def _count(self, chat: Chat) -> None:
        """What answers cost; a gateway that pays knows it once they are settled."""
        for record in (await self._client.usage()).get("requests", []):
            if record["request"] in chat.uncounted:
                chat.uncounted.remove(record["request"])
                chat.tokens += record["tokens"]
                chat.cost += record["cost"]

    async def _show(self, id: int, sent: Any, shown: str, text: str) -> str:
        # Telegram refuses an edit that changes nothing.
        if text != shown:
            message = sent["message_id"]
            await self._api.call("editMessageText", chat_id=id, message_id=message, text=text)
        return text

    async def _say(self, id: int, text: str) -> Any:
        return await self._api.call("sendMessage", chat_id=id, text=text)

    async def _models(self) -> list[str]:
        return [model.id async for model in self._client.models.list()]


def verified(trust: dict[str, Any]) -> str:
    """What ``/cocoon/trust`` tells, for people."""
    workers = trust.get("workers", [trust])
    if not workers:
        return "Nobody was asked yet."
    lines = []
    for worker in workers:
        if "worker" in worker:
            lines.append(f"worker {worker['worker'][:16]}…")
        for check in worker["checks"]:
            lines.append(f"{'✓' if check['passed'] else '✗'} {check['name']}: {check['found']}")
    return "\n".join(lines)[:LONGEST]


async def main() -> None:
    api = BotApi(os.environ["TELEGRAM_TOKEN"], os.environ.get("TELEGRAM_API", "https://api.telegram.org"))
    async with AsyncOpenAI() as client:
        await Bot(api, client).run()


if __name__ == "__main__":
    asyncio.run(main())
