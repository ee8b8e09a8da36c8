"""What a call costs above the wire: no server, no socket, little noise; the figure to watch in CI.

    python benchmarks/null.py [--quick]

`Session.get_plans()` with retries, deadline and typed result, against `httpx.AsyncClient.get` + `json()`: both on an
httpx transport that has the answer ready. And the Session alone, on a Transport of ours that has it ready.
"""

import asyncio
import platform
import sys

import httpx
from compare import Candidate, interleave, print_table
from server import READ

from tgmembership_async import Headers, HttpxTransport, Request, Response, Session
from tgmembership_async.transport.httpcore import OneConnection
from tgmembership_async.transport.httpx import _Lane
from tgmembership_async.transport.lanes import Lanes

BODY = READ.partition(b"\r\n\r\n")[2]
KEY = "0123456789abcdefghij0123456789abcdefghij"
URL = "http://127.0.0.1:1"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


class NullHttpx(httpx.AsyncHTTPTransport):
    """An httpx transport that has the answer ready."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        return httpx.Response(200, headers=HEADERS, stream=httpx.ByteStream(BODY), request=request)


class AlwaysIdle(OneConnection):
    """A connection that is never looked at."""

    def __init__(self) -> None:
        """Need no pool."""

    def is_idle(self) -> bool:
        """Be ready."""
        return True


class Null:
    """A Transport of ours that has the answer ready."""

    def __init__(self) -> None:
        self._headers = Headers((name.decode(), value.decode()) for name, value in HEADERS)

    async def send(self, request: Request) -> Response:
        """Answer."""
        request.progress.begun = True
        return Response(200, self._headers, BODY)

    async def aclose(self) -> None:
        """Do nothing."""


async def main() -> None:
    """Print the table."""
    rounds, calls = (5, 1_000) if "--quick" in sys.argv else (15, 3_000)
    over_httpx = HttpxTransport(proxy=None)
    over_httpx._lanes = Lanes(lambda: _Lane(NullHttpx(), AlwaysIdle()))  # noqa: SLF001 - a lane that leads nowhere
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
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, httpx {httpx.__version__}\n")
    print_table(figures)


if __name__ == "__main__":
    asyncio.run(main())
