"""OpenAI's clients with a gateway of ours as their only address."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import openai

from ._gateway import Gateway, Path


class OpenAI(openai.OpenAI):
    """``openai.OpenAI``, answered by verified workers."""

    def __init__(
        self,
        *,
        worker: Optional[str] = None,
        network: Optional[Sequence[str]] = None,
        max_price: Optional[int] = None,
        channel: Optional[Path] = None,
        gateway: Optional[str] = None,
        gateway_arguments: Sequence[str] = (),
        program: Optional[Path] = None,
        api_key: Optional[str] = None,
        **options: Any,
    ) -> None:
        base_url = options.pop("base_url", None)
        self.gateway = Gateway(
            worker=worker,
            network=network,
            max_price=max_price,
            channel=channel,
            gateway=gateway,
            arguments=gateway_arguments,
            program=program,
        )
        _refuse(base_url, self.gateway)
        # No proxy of the environment's stands between us and this machine.
        options.setdefault("http_client", _http("Default{}Client"))
        super().__init__(base_url=self.gateway.base_url, api_key=api_key or "none", **options)

    def trust(self) -> dict[str, Any]:
        """What was verified, check by check."""
        return self._told("trust")

    def usage(self) -> dict[str, Any]:
        """What was spent, in nanotons, and the newest requests."""
        return self._told("usage")

    def close(self) -> None:
        super().close()
        self.gateway.close()

    def copy(self, **options: Any) -> Any:
        """With other options and the same gateway, which ends with the first of them."""
        return super().copy(_extra_kwargs={"gateway": self.gateway.url}, **options)

    with_options = copy

    def _told(self, what: str) -> dict[str, Any]:
        told: Any = self.get(f"{self.gateway.url}/cocoon/{what}", cast_to=object)
        return dict(told)


class AsyncOpenAI(openai.AsyncOpenAI):
    """``openai.AsyncOpenAI``, answered by verified workers."""

    def __init__(
        self,
        *,
        worker: Optional[str] = None,
        network: Optional[Sequence[str]] = None,
        max_price: Optional[int] = None,
        channel: Optional[Path] = None,
        gateway: Optional[str] = None,
        gateway_arguments: Sequence[str] = (),
        program: Optional[Path] = None,
        api_key: Optional[str] = None,
        **options: Any,
    ) -> None:
        base_url = options.pop("base_url", None)
        self.gateway = Gateway(
            worker=worker,
            network=network,
            max_price=max_price,
            channel=channel,
            gateway=gateway,
            arguments=gateway_arguments,
            program=program,
        )
        _refuse(base_url, self.gateway)
        options.setdefault("http_client", _http("DefaultAsync{}Client"))
        super().__init__(base_url=self.gateway.base_url, api_key=api_key or "none", **options)

    async def trust(self) -> dict[str, Any]:
        """What was verified, check by check."""
        return await self._told("trust")

    async def usage(self) -> dict[str, Any]:
        """What was spent, in nanotons, and the newest requests."""
        return await self._told("usage")

    async def close(self) -> None:
        await super().close()
        self.gateway.close()

    def copy(self, **options: Any) -> Any:
        """With other options and the same gateway, which ends with the first of them."""
        return super().copy(_extra_kwargs={"gateway": self.gateway.url}, **options)

    with_options = copy

    async def _told(self, what: str) -> dict[str, Any]:
        told: Any = await self.get(f"{self.gateway.url}/cocoon/{what}", cast_to=object)
        return dict(told)


def _refuse(base_url: Any, gateway: Gateway) -> None:
    if base_url is not None and str(base_url).rstrip("/") != gateway.base_url:
        gateway.close()
        raise TypeError("base_url is the gateway's: give worker, network or gateway")


def _http(name: str) -> Any:
    """Of the kind that this version of OpenAI's client takes."""
    kinds = (getattr(openai, name.format(kind), None) for kind in ("Httpx2", "Httpx"))
    return next(kind for kind in kinds if kind)(trust_env=False)
