"""A constructor that rejects an argument shows no secret in tracebacks with locals; its object has a repr."""

import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canary import CANARY_KEY, CANARY_SECRET

from tgmembership_async import HttpxTransport, Session, UsageError
from tgmembership_async.cli import credentials
from tgmembership_async.grants import Granter, MemoryLedger, PostgresLedger, SqliteLedger
from tgmembership_async.storage.postgres.gate import PostgresGate
from tgmembership_async.transport.aiohttp import AiohttpTransport
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import PostgresInbox, Receiver, SqliteInbox, Verifier, sign

KEY, SECRET = CANARY_KEY, CANARY_SECRET
PROXY, DATABASE = f"http://me:{SECRET}@proxy:3128", f"postgresql://shop:{SECRET}@db/shop"
WRONG: dict[str, Callable[[], Any]] = {
    "deadline": lambda: Session(1, KEY, deadline=-1),
    "bot": lambda: Session(-1, KEY),
    "swapped": lambda: Session(KEY, 1),  # type: ignore[arg-type]
    "key of bytes": lambda: Session(1, KEY.encode()),  # type: ignore[arg-type]
    "key in a list": lambda: Session(1, [KEY]),  # type: ignore[arg-type]
    "key with a line end": lambda: Session(1, f"{KEY}\n"),
    "keyword": lambda: Session(1, KEY, deadlin=1),  # type: ignore[call-arg]
    "key twice": lambda: Session(1, KEY, api_key=KEY),  # type: ignore[misc]
    "base_url": lambda: Session(1, KEY, base_url=f"https://me:{SECRET}@host"),
    "proxy": lambda: Session(1, KEY, proxy=f"htp://me:{SECRET}@host"),
    "proxy and transport": lambda: Session(1, KEY, proxy=PROXY, transport="carrier pigeon"),  # type: ignore[arg-type]
    "retry": lambda: Session(1, KEY, retry=None),  # type: ignore[arg-type]
    "environment": lambda: Session.from_env(proxy=PROXY, deadline=-1),
    "environment without a bot": lambda: Session.from_env("ELSEWHERE_", api_key=KEY),  # type: ignore[call-arg]
    "view": lambda: Session(1, Secret(KEY)).with_options(api_key=KEY),  # type: ignore[call-arg]
    "httpx": lambda: HttpxTransport(proxy=f"htp://me:{SECRET}@host"),
    "httpx with a client": lambda: HttpxTransport(proxy=PROXY, client=5),  # type: ignore[arg-type]
    "aiohttp": lambda: AiohttpTransport(proxy=f"socks5://me:{SECRET}@host"),
    "verifier": lambda: Verifier(SECRET, tolerance=-1),
    "one of two": lambda: Verifier([SECRET, f"{SECRET} "]),
    "verifier of bytes": lambda: Verifier(SECRET.encode()),  # type: ignore[arg-type]
    "sign": lambda: sign(SECRET, b"", nonce="1.2", timestamp=1),
    "sign without a time": lambda: sign(SECRET, b"", nonce=None, timestamp="now"),  # type: ignore[arg-type]
    "ledger": lambda: PostgresLedger(f"postgresql://shop:{SECRET}/x@db"),
    "half a letter": lambda: PostgresLedger(f"postgresql://shop:{SECRET}\udcff@db"),
    "NUL": lambda: PostgresLedger(f"postgresql://shop:{SECRET}\0@db"),
    "ledger of bytes": lambda: PostgresLedger(DATABASE.encode()),  # type: ignore[arg-type]
    "ledger's keyword": lambda: PostgresLedger(DATABASE, owner=True),  # type: ignore[call-arg]
    "inbox": lambda: PostgresInbox(f"postgresql://shop:{SECRET}@x@db"),
    "gate": lambda: PostgresGate(f"host=db password='{SECRET}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_frame_of_a_refusal_holds_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "1")
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", KEY)
    found: BaseException | None = None
    try:
        WRONG[name]()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        found = error
    assert isinstance(found, UsageError | TypeError)
    assert "UnicodeEncodeError" not in repr(found)
    # Including contexts, which are not printed, but which some tools report.
    for one in (found, found.__cause__, found.__context__):
        if one is not None:
            shown = traceback.TracebackException.from_exception(one, capture_locals=True)
            text = "".join(shown.format()) + repr(one) + repr(vars(one))
            # The caller's own source may name it; its frames and ours do not hold it.
            assert KEY not in text
            assert SECRET not in text


def test_a_wrong_file_of_credentials_shows_no_line_of_it(tmp_path: Path) -> None:
    file = tmp_path / "bot.env"
    file.write_text(f"TGMEMBERSHIP_API_KEY={KEY}\nnonsense\n")
    with pytest.raises(UsageError, match="not KEY=VALUE") as caught:
        credentials.load(file)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(shown.format())


@pytest.mark.parametrize(
    "kind",
    [Session, Granter, Verifier, Receiver, PostgresLedger, SqliteLedger, PostgresInbox, SqliteInbox, PostgresGate],
)
def test_what_was_not_built_has_a_repr(kind: Any) -> None:
    assert kind.__name__ in repr(kind.__new__(kind))


def test_what_was_built_keeps_them(client_tls: ssl.SSLContext) -> None:
    transports = [way(proxy=PROXY, ssl_context=client_tls) for way in (HttpxTransport, AiohttpTransport)]
    kept = [Session(1, KEY, proxy=PROXY), *transports, PostgresLedger(DATABASE), Verifier(SECRET)]
    for one in (*kept, Granter(Session(1, KEY), MemoryLedger())):
        shown = f"{one!r} {vars(one)!r} {[vars(value) for value in vars(one).values() if hasattr(value, '__dict__')]!r}"
        assert KEY not in shown
        assert SECRET not in shown


async def test_a_proxy_of_the_environment_that_is_refused_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"gopher://me:{SECRET}@proxy")
    monkeypatch.delenv("no_proxy", raising=False)
    for transport in (HttpxTransport(), AiohttpTransport()):
        async with Session(1, KEY, base_url="https://127.0.0.1:9", transport=transport) as tg:
            with pytest.raises(UsageError, match="proxy must be") as caught:
                await tg.get_plans()
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert SECRET not in "".join(shown.format())
