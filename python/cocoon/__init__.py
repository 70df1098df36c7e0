"""OpenAI's client, answered by machines that proved what they run.

The program ``cocoon`` verifies and seals; this starts it on loopback, or finds one that
runs, and points OpenAI's client at it. There is no way here past it.
"""

from ._client import AsyncOpenAI, OpenAI
from ._gateway import Gateway, GatewayError

__all__ = ["AsyncOpenAI", "Gateway", "GatewayError", "OpenAI"]
