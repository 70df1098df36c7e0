"""OpenAI's clients with a gateway of ours as their only address."""

from __future__ import annotations

from typing import Any, Sequence

import openai

from ._gateway import Gateway, Place


class _Behind:
    """What the clients share: a gateway, named as :class:`Gateway` takes it, and no way
    past it. All else is OpenAI's."""

    _http: str

    def __init__(self, *, gateway_arguments: Sequence[str] = (), **options: Any) -> None:
        place: Any = {name: options.pop(name) for name in Place.__annotations__ if name in options}
        base_url = options.pop("base_url", None)
        self.gateway = Gateway(arguments=gateway_arguments, **place)
        if base_url is not None and str(base_url).rstrip("/") != self.gateway.base_url:
            self.gateway.close()
            raise TypeError("base_url is the gateway's: give worker, network or gateway")
        options["api_key"] = options.get("api_key") or "none"
        # No proxy of the environment's stands between us and this machine.
        options.setdefault("http_client", _http(self._http))
        original: Any = super()
        original.__init__(base_url=self.gateway.base_url, **options)

    def copy(self, **options: Any) -> Any:
        """With other options and the same gateway, which ends with the first of them."""
        original: Any = super()
        return original.copy(_extra_kwargs={"gateway": self.gateway.url}, **options)

    with_options = copy


class OpenAI(_Behind, openai.OpenAI):
    """``openai.OpenAI``, answered by verified workers."""

    _http = "Default{}Client"

    def trust(self) -> dict[str, Any]:
        """What was verified, check by check."""
        return self._told("trust")

    def usage(self) -> dict[str, Any]:
        """What was spent, in nanotons, and the newest requests."""
        return self._told("usage")

    def close(self) -> None:
        super().close()
        self.gateway.close()

    def _told(self, what: str) -> dict[str, Any]:
        told: Any = self.get(f"{self.gateway.url}/cocoon/{what}", cast_to=object)
        return dict(told)


class AsyncOpenAI(_Behind, openai.AsyncOpenAI):
    """``openai.AsyncOpenAI``, answered by verified workers."""

    _http = "DefaultAsync{}Client"

    async def trust(self) -> dict[str, Any]:
        """What was verified, check by check."""
        return await self._told("trust")

    async def usage(self) -> dict[str, Any]:
        """What was spent, in nanotons, and the newest requests."""
        return await self._told("usage")

    async def close(self) -> None:
        await super().close()
        self.gateway.close()

    async def _told(self, what: str) -> dict[str, Any]:
        told: Any = await self.get(f"{self.gateway.url}/cocoon/{what}", cast_to=object)
        return dict(told)


def _http(name: str) -> Any:
    """Of the kind that this version of OpenAI's client takes."""
    kinds = (getattr(openai, name.format(kind), None) for kind in ("Httpx2", "Httpx"))
    return next(kind for kind in kinds if kind)(trust_env=False)
