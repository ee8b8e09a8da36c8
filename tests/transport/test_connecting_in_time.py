"""`connect_timeout` bounds all steps before the request, and the error names the slow one."""

import time
from typing import Any

import pytest

from tgmembership_async import NotSent, RetryPolicy


def says_nothing(connection: Any) -> None:
    while connection.sock.recv(4096):
        pass


@pytest.mark.parametrize(
    ("scheme", "stage"), [("http", "proxy"), ("socks5", "proxy"), (None, "TLS")], ids=["CONNECT", "SOCKS", "TLS"]
)
def test_what_comes_before_the_request_is_bounded_as_a_whole(
    scheme: str | None, stage: str, serve: Any, run: Any, session: Any, library: str
) -> None:
    if library == "aiohttp" and scheme == "socks5":
        pytest.skip("aiohttp knows no SOCKS")
    server = serve(says_nothing)
    proxy = None if scheme is None else f"{scheme}://127.0.0.1:{server.port}"
    options: dict[str, Any] = {"connect_timeout": 0.1, "read_timeout": 20.0, "retry": RetryPolicy(attempts=1)}

    async def scenario() -> None:
        async with session(f"https://127.0.0.1:{server.port}", proxy=proxy, **options) as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                before = time.monotonic()
                with pytest.raises(NotSent) as late:
                    await call()
                assert time.monotonic() - before < 10.0
                assert "scope" not in str(late.value)
                assert "0x" not in str(late.value)
                if library == "httpx":
                    assert f"{stage}: ConnectTimeout" in str(late.value)

    run(scenario)
