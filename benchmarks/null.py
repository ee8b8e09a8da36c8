"""Measure the CPU of a call without network: no server and no socket, so the figures vary little.

    python benchmarks/null.py [--quick] [--json FILE]

Two candidates use an httpx transport that returns a fixed answer: `httpx.AsyncClient.get` + `json()`, and
`Session.get_plans()` with retries, deadline and typed result. The third is the Session on a Transport of its own.
"""

import asyncio
import sys

import httpx
from compare import Candidate, interleave, rows
from server import READ
from tables import publish

from tgmembership_async import Headers, HttpxTransport, Request, Response, Session
from tgmembership_async.transport.httpcore import OneConnection
from tgmembership_async.transport.httpx_exchange import HttpxLane
from tgmembership_async.transport.lanes import Lanes

BODY = READ.partition(b"\r\n\r\n")[2]
KEY = "0123456789abcdefghij0123456789abcdefghij"
URL = "http://127.0.0.1:1"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


class NullHttpx(httpx.AsyncHTTPTransport):
    """An httpx transport that returns a fixed answer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer."""
        return httpx.Response(200, headers=HEADERS, stream=httpx.ByteStream(BODY), request=request)


class AlwaysIdle(OneConnection):
    """A connection that is always idle."""

    def __init__(self) -> None:
        """Create no pool."""

    def is_idle(self) -> bool:
        """Return True."""
        return True


class Null:
    """A Transport that returns a fixed answer."""

    def __init__(self) -> None:
        self._headers = Headers((name.decode(), value.decode()) for name, value in HEADERS)

    async def send(self, request: Request) -> Response:
        """Return the answer."""
        request.progress.begun = True
        return Response(200, self._headers, BODY)

    async def aclose(self) -> None:
        """Do nothing."""


async def main() -> None:
    """Print the table."""
    rounds, calls = (5, 1_000) if "--quick" in sys.argv else (15, 3_000)
    over_httpx = HttpxTransport(proxy=None)
    over_httpx._lanes = Lanes(lambda: HttpxLane(NullHttpx(), AlwaysIdle()))  # noqa: SLF001 - a lane without network
    async with (
        httpx.AsyncClient(transport=NullHttpx(), trust_env=False) as client,
        Session(1, KEY, base_url=URL, transport=over_httpx) as tg,
        Session(1, KEY, base_url=URL, transport=Null()) as alone,
    ):

        async def bare() -> object:
            return (await client.get(f"{URL}/bot1/{KEY}/getPlans")).json()

        candidates = [
            Candidate("bare httpx.AsyncClient.get + json()", bare),
            Candidate("Session.get_plans, httpx transport", tg.get_plans),
            Candidate("Session.get_plans, no transport", alone.get_plans),
        ]
        figures = await interleave(candidates, rounds=rounds, calls=calls)
    publish({"a call without network": rows(figures)}, "httpx")


if __name__ == "__main__":
    asyncio.run(main())
