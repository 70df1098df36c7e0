"""The gateway: one that runs already, or a process of our own."""

from __future__ import annotations

import atexit
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from typing import IO, Any, Optional, Sequence, TypedDict, Union
from urllib.parse import urlsplit

from typing_extensions import Unpack

Path = Union[str, "os.PathLike[str]"]


class GatewayError(RuntimeError):
    """No gateway to speak to; the message says what the program said."""


class Place(TypedDict, total=False):
    """One of worker, network and gateway, and what goes with it."""

    worker: str
    network: Sequence[str]
    max_price: int
    channel: Path
    gateway: str
    program: Path


class Gateway:
    """Where ``/v1`` is, and the process behind it if it is ours."""

    def __init__(
        self, *, arguments: Sequence[str] = (), timeout: float = 30.0, **place: Unpack[Place]
    ) -> None:
        self._process: Optional[subprocess.Popen[bytes]] = None
        worker, network = place.get("worker"), place.get("network")
        gateway = place.get("gateway")
        if sum(map(bool, (worker, network, gateway))) > 1:
            raise GatewayError("give one of worker, network and gateway")
        if not (worker or network or gateway):
            gateway = os.environ.get("COCOON_GATEWAY")
            if not gateway:
                raise GatewayError("give worker, network or gateway, or set COCOON_GATEWAY")
        if gateway:
            self.url = _loopback(gateway)
            return
        command = [_program(place.get("program")), "gateway", "--listen", "127.0.0.1:0"]
        if worker:
            command.append(worker)
        if network:
            max_price = place.get("max_price")
            if max_price is None:
                raise GatewayError("a network needs max_price: nanotons for a million tokens")
            command += ["--network", ",".join(network), "--max-price", str(max_price)]
        channel = place.get("channel")
        if channel:
            command += ["--channel", os.fspath(channel)]
        self.url = self._start([*command, *arguments], timeout)

    @property
    def base_url(self) -> str:
        """What OpenAI's client calls it."""
        return f"{self.url}/v1"

    def close(self) -> None:
        """Ends the process, if it is ours."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.close)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start(self, command: Sequence[str], timeout: float) -> str:
        with tempfile.TemporaryFile() as log:
            try:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
            except OSError as error:
                raise GatewayError(f"cannot start {command[0]}: {error}") from error
            self._process = process
            atexit.register(self.close)
            assert process.stdout is not None
            line = _line(process.stdout, timeout)
            name, _, base = line.partition(" ")
            if name == "gateway" and base.endswith("/v1"):
                return base[: -len("/v1")]
            self.close()
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
        raise GatewayError(f"the gateway did not start: {said or line or 'it said nothing'}")


def _line(stream: IO[bytes], timeout: float) -> str:
    """The first line that a process says, or what there is of it in time."""
    until = time.monotonic() + timeout
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while b"\n" not in said:
            if not selector.select(max(0.0, until - time.monotonic())):
                break
            more = os.read(stream.fileno(), 4096)
            if not more:
                break
            said += more
    return said.split(b"\n")[0].decode(errors="replace").strip()


def _program(given: Optional[Path]) -> str:
    program = given or os.environ.get("COCOON") or shutil.which("cocoon")
    if not program:
        raise GatewayError("the program cocoon is neither on the PATH nor in COCOON")
    return os.fspath(program)


def _loopback(url: str) -> str:
    """Between us and a gateway nothing is encrypted: it has to be on this machine."""
    bare = url.rstrip("/")
    bare = bare[: -len("/v1")] if bare.endswith("/v1") else bare
    parts = urlsplit(bare)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not local and parts.scheme != "https":
        raise GatewayError(f"{url} is neither on this machine nor https")
    return bare
