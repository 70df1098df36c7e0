"""Against a gateway that runs (COCOON_GATEWAY) and the worker behind it, if there is one,
and against programs that are no gateway."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import openai
import pytest

from cocoon import AsyncOpenAI, Gateway, GatewayError, OpenAI

VERSE = "In the beginning God created the heaven and the earth."
ASK = {"model": "cocoon-tiny", "messages": [{"role": "user", "content": "Recite Genesis 1:1."}]}
served = pytest.mark.skipif("COCOON_GATEWAY" not in os.environ, reason="no gateway runs")


@served
def test_chats_and_tells_what_was_verified() -> None:
    with OpenAI() as client:
        assert client.chat.completions.create(**ASK).choices[0].message.content == VERSE
        checks = client.trust()["checks"]
        assert {"mrtd", "rtmr2"} <= {check["name"] for check in checks}
        assert all(check["passed"] for check in checks)
        assert client.usage() == {"paid": False}


@served
def test_streams_asynchronously() -> None:
    async def run() -> str:
        async with AsyncOpenAI() as client:
            stream = await client.chat.completions.create(**ASK, stream=True)
            assert (await client.trust())["trusted"] is True
            assert await client.usage() == {"paid": False}
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run()) == VERSE


@served
@pytest.mark.skipif("COCOON_WORKER" not in os.environ, reason="no worker of our own")
def test_starts_a_gateway_that_ends_with_it() -> None:
    arguments = os.environ["COCOON_TRUST"].split("\n")
    with OpenAI(worker=os.environ["COCOON_WORKER"], gateway_arguments=arguments) as client:
        url = client.gateway.url
        assert client.chat.completions.create(**ASK).choices[0].message.content == VERSE
    with pytest.raises(openai.APIConnectionError):
        OpenAI(gateway=url, max_retries=0).models.list()


@served
@pytest.mark.skipif("COCOON_WORKER" not in os.environ, reason="no worker of our own")
def test_a_worker_that_is_not_trusted_gets_nothing() -> None:
    # Without the made-up root it is only Intel's that counts.
    with OpenAI(worker=os.environ["COCOON_WORKER"], max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**ASK)
    assert caught.value.code == "worker_not_trusted"
    assert "collateral" in caught.value.message, "what differs is named"


def test_an_address_past_the_gateway_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCOON_GATEWAY", raising=False)
    with pytest.raises(TypeError, match="base_url is the gateway's"):
        OpenAI(gateway="http://127.0.0.1:1", base_url="https://api.openai.com/v1")
    client = OpenAI(gateway="http://127.0.0.1:1")
    assert str(client.with_options(timeout=5).base_url) == "http://127.0.0.1:1/v1/"
    with pytest.raises(TypeError, match="base_url is the gateway's"):
        client.with_options(base_url="https://api.openai.com/v1")
    with pytest.raises(GatewayError, match="neither on this machine nor https"):
        OpenAI(gateway="http://gateway.example:8080")
    with pytest.raises(GatewayError, match="or set COCOON_GATEWAY"):
        OpenAI()
    with pytest.raises(GatewayError, match="give one of"):
        OpenAI(gateway="http://127.0.0.1:1", worker="https://a:1")
    with pytest.raises(GatewayError, match="needs max_price"):
        Gateway(network=["https://a"], program="/bin/true")


def test_a_program_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="cannot start"):
        Gateway(worker="https://a:1", program=tmp_path / "none")
    program = tmp_path / "cocoon"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('cocoon: no such release')\n")
    program.chmod(stat.S_IRWXU)
    with pytest.raises(GatewayError, match="did not start: cocoon: no such release"):
        Gateway(worker="https://a:1", program=program)


def test_what_the_program_is_told(tmp_path: Path) -> None:
    program, told = tmp_path / "cocoon", tmp_path / "told"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        f"open({str(told)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "print('gateway http://127.0.0.1:9/v1', flush=True)\ntime.sleep(60)\n"
    )
    program.chmod(stat.S_IRWXU)
    options = {"network": ["https://a", "https://b"], "max_price": 5, "channel": tmp_path / "c"}
    with Gateway(program=program, arguments=["--deadline", "9"], **options) as gateway:
        assert gateway.base_url == "http://127.0.0.1:9/v1"
    expected = f"gateway --listen 127.0.0.1:0 --network https://a,https://b --max-price 5 --channel {tmp_path}/c --deadline 9"
    assert told.read_text() == expected
