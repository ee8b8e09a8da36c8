"""`desk_router`: the desk inside an application, behind the application's own authentication."""

import re
from html import unescape
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from asgi_server import on_uvicorn
from canary import CANARY_KEY
from desk_server import hold
from fastapi import Cookie, FastAPI, HTTPException
from pages import ROOT, fences

from tgmembership_async.errors import UsageError
from tgmembership_async.ext.fastapi import desk_router
from tgmembership_async.grants import GrantStatus, MemoryLedger
from tgmembership_async.values.secret import Secret


def owner(user: Annotated[str, Cookie()] = "") -> bool:
    """Let in the owner, and refuse others in one of two ways."""
    if user == "thief":
        raise HTTPException(401)
    return user == "owner"


def client(url: str, user: str = "owner") -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, cookies={"user": user}, trust_env=False, follow_redirects=True)


async def form(browser: httpx.AsyncClient, path: str) -> tuple[str, dict[str, str]]:
    text = (await browser.get(path)).text
    [action] = re.findall(r'<form method="post" action="(.*?)"', text)
    return action, {
        name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="(.*?)"', text)
    }


async def test_the_owner_decides_behind_the_authentication_of_the_application() -> None:
    async with MemoryLedger() as ledger:
        await hold(ledger, "pi_unknown")
        app = FastAPI()
        app.include_router(desk_router(ledger, allow=owner), prefix="/shop/desk")
        async with on_uvicorn(app) as url, client(url) as browser:
            assert "pi_unknown" in (await browser.get("/shop/desk")).text
            assert (await browser.get("/shop/desk/desk.css")).status_code == 200
            action, fields = await form(browser, "/shop/desk/decide?ref=pi_unknown&verb=abandon")
            assert action == "/shop/desk/decide"
            sent: dict[str, Any] = {"data": {**fields, "reason": "refunded"}}
            assert (await browser.post(action, **sent, headers={"origin": "https://evil.example"})).status_code == 403
            async with client(url, "nobody") as stranger, client(url, "thief") as thief:
                for path in "", "/held", "/grant?ref=pi_unknown", "/desk.css":
                    assert (await stranger.get(f"/shop/desk{path}")).status_code == 403
                    assert (await thief.get(f"/shop/desk{path}")).status_code == 401
                stranger.cookies.update(browser.cookies)
                stranger.cookies.set("user", "nobody")
                assert (await stranger.post(action, **sent, headers={"origin": url})).status_code == 403
            async with client(url) as other:
                assert (await other.post(action, **sent, headers={"origin": url})).status_code == 403
            grant = await ledger.get("pi_unknown")
            assert grant is not None
            assert grant.status is GrantStatus.UNKNOWN
            assert (await browser.post(action, **sent, headers={"origin": url})).status_code == 200
            assert [made.reason for made in await ledger.decisions("pi_unknown")] == ["refunded"]
            assert (await browser.post(action, **sent, headers={"origin": url})).status_code == 403
        assert "/shop/desk" not in str(app.openapi()["paths"])


async def test_the_program_in_the_docs_lets_in_the_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [program] = [fence.code for fence in fences(ROOT / "docs" / "desk.md") if fence.language == "python"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "1")
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", CANARY_KEY)
    names: dict[str, Any] = {}
    exec(compile(program, "desk.md", "exec"), names)  # the name of the page: "desk.md"
    async with on_uvicorn(names["app"]) as url, httpx.AsyncClient(base_url=url, trust_env=False) as browser:
        assert (await browser.get("/desk/held")).status_code == 403
        answer = await browser.get("/desk/held", headers={"x-user": "owner"})
        assert "Nothing waits for a decision." in answer.text


async def test_several_processes_with_one_secret_serve_one_desk() -> None:
    async with MemoryLedger() as ledger:
        await hold(ledger, "pi_unknown")
        apps = [FastAPI(), FastAPI()]
        for app in apps:
            app.include_router(desk_router(ledger, allow=owner, secret=Secret("s" * 32)), prefix="/desk")
        pages = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://shop", cookies={"user": "owner"})
            for app in apps
        ]
        first, second = pages
        async with first, second:
            answer = await first.get("/desk/held")
            assert "Secure" in answer.headers["set-cookie"]
            second.cookies.update(first.cookies)
            action, fields = await form(first, "/desk/decide?ref=pi_unknown&verb=retry")
            sent = {**fields, "reason": "again"}
            assert (await second.post(action, data=sent, headers={"origin": "https://shop"})).status_code == 303
            assert (await first.post(action, data=sent, headers={"origin": "https://shop"})).status_code == 409


def test_nobody_is_let_in_by_default() -> None:
    with pytest.raises(TypeError, match="allow"):
        desk_router(MemoryLedger())  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="your dependency"):
        desk_router(MemoryLedger(), allow=None)  # type: ignore[arg-type]
