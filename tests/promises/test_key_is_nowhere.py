"""The API key is in no log record, repr, traceback with locals, pickle, warning, CONNECT, redirect or output."""

import asyncio
import logging
import pickle
import ssl
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from scripted_server import answering, reset

from tgmembership_async import HttpxTransport, Request, Response, RetryPolicy, Session

QUICK = RetryPolicy(attempts=2, transient_base=0, throttled_base=0)
PATH = f"/bot8047883872/{CANARY_KEY}/getPlans"


def session(url: str, **options: Any) -> Session:
    return Session(8047883872, CANARY_KEY, base_url=url, **{"proxy": None, "retry": QUICK, "deadline": 1.0, **options})


class Everything(logging.Handler):
    """Collect all log records, as text and with all their fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{self.format(record)} {vars(record)!r}")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    names = [
        "",
        *(name for name in logging.root.manager.loggerDict if name.startswith(("httpx", "httpcore", "asyncio"))),
    ]
    loggers = [logging.getLogger(name) for name in (*names, "httpcore.http11", "httpcore.connection", "httpcore.proxy")]
    levels = [logger.level for logger in loggers]
    handler = Everything()
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    yield handler.seen
    logging.getLogger().removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def texts_of(error: BaseException) -> list[str]:
    """Return all text representations of an error."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = ["".join(shown.format()), repr(error), str(error), repr(vars(error)), repr(error.args)]
    try:
        texts.append(pickle.dumps(error).decode("latin-1"))
    except (TypeError, AttributeError, pickle.PicklingError):
        texts.append("")
    return texts


def redirect(connection: Any) -> None:
    while connection.request():
        connection.answer(302, b"", location=f"https://elsewhere.example{PATH}", x_echo=CANARY_KEY)


def garbage(connection: Any) -> None:
    connection.request()
    connection.send(f"HTTP/1.1 {PATH} \x00\r\n\r\n".encode())


def hang(connection: Any) -> None:
    connection.request()
    connection.sock.recv(1)


ESCAPED = "".join(f"\\u{ord(char):04x}" for char in CANARY_KEY)
PERCENT = "".join(f"%{ord(char):02x}" for char in CANARY_KEY)
REFUSED = '{"ok": false, "code": 404, "description": "no such thing: /bot8047883872/%s/"}'
SCRIPTS = {
    "utf-16": answering(200, (REFUSED % CANARY_KEY).encode("utf-16")),
    "json": answering(200, (REFUSED % ESCAPED).encode()),
    "slashes": answering(200, (REFUSED % CANARY_KEY).replace("/", "\\/").encode()),
    "percent": answering(404, (REFUSED % PERCENT).encode(), x_echo=PERCENT.upper()),
    "redirect": redirect,
    "drop": reset,
    "garbage": garbage,
    "hang": hang,
    "html": answering(404, f"<html>{PATH} not found</html>".encode()),
    "refused": answering(200, {"ok": False, "code": 404, "description": PATH, "request_id": CANARY_KEY}),
    "shape": answering(200, {"ok": True, "code": 200, "result": [PATH], "path": PATH}),
    "limited": answering(429, PATH.encode(), retry_after="3600"),
}


@pytest.mark.parametrize("method", ["get_plans", "add_member", "delete_webhook"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_in_nothing_that_a_failure_leaves(name: str, method: str, serve: Any, run: Any, logged: list[str]) -> None:
    server = serve(SCRIPTS[name])
    texts: list[str] = []

    async def scenario() -> None:
        async with session(server.url, grant_timeout=0.3, read_timeout=0.2) as tg:
            try:
                result = await getattr(tg, method)(*((1, 42) if method == "add_member" else ()))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                texts.extend(texts_of(error))
            else:
                texts.append(repr(result))
            texts.append(repr(vars(tg)))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run(scenario)
    assert PATH.encode().rpartition(b"/")[0] in server.requests[0], "it was really sent"
    assert len(texts) > 1
    for text in (*texts, *logged, *(str(warning.message) for warning in warned)):
        for spelled in (CANARY_KEY, ESCAPED, PERCENT, PERCENT.upper(), "\0".join(CANARY_KEY)):
            assert spelled not in text


def test_in_nothing_that_a_success_leaves(serve: Any, run: Any, logged: list[str]) -> None:
    server = serve(answering(200, {"ok": True, "code": 200, "result": {"path": PATH, "n": 1}, "path": PATH}))
    seen: list[str] = []

    async def look(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        seen.extend([repr(request), repr(answer), repr(answer.envelope), answer.body.decode()])
        return answer

    async def scenario() -> None:
        async with session(
            server.url, middleware=[look], attempt_middleware=[look], observer=lambda end: seen.append(repr(end))
        ) as tg:
            seen.append(repr(await tg.call("anything")))

    run(scenario)
    assert len(seen) > 8
    assert any("send_request_headers" in text for text in logged), "httpcore did log"
    for text in (*seen, *logged):
        assert CANARY_KEY not in text


def test_in_no_request_to_a_connect_proxy(
    serve: Any, run: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, logged: list[str]
) -> None:
    server = serve(answering(), server_tls)

    def tunnel(connection: Any) -> None:
        line = connection.request().split(b" ")
        if len(line) > 1:
            connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.pipe("127.0.0.1", server.port)

    proxy = serve(tunnel)

    async def scenario() -> None:
        transport = HttpxTransport(ssl_context=client_tls, proxy=proxy.url)
        async with session(server.url, transport=transport) as tg:
            await tg.get_plans()

    run(scenario)
    assert PATH.encode() in server.requests[0]
    for text in (*(request.decode("latin-1") for request in proxy.requests), *logged):
        assert CANARY_KEY not in text


def test_in_no_traceback_of_a_cancelled_call(serve: Any, logged: list[str]) -> None:
    server = serve(hang)
    texts: list[str] = []

    async def scenario() -> None:
        async with session(server.url) as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                task = asyncio.ensure_future(call())
                await asyncio.sleep(0.1)
                texts.append(repr(task))
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError as error:
                    texts.extend(texts_of(error))

    anyio.run(scenario)
    assert len(texts) > 6
    for text in (*texts, *logged):
        assert CANARY_KEY not in text
