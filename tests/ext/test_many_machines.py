"""The page "many_machines.md" runs from top to bottom, Python and bash, on a real PostgreSQL."""

import asyncio
import sys
from pathlib import Path

import psycopg
import pytest
from own_schema import own_schema
from pages import ROOT, Reader, fences

from tgmembership_async.grants import Grant, GrantRequest, PostgresLedger, SqliteLedger
from tgmembership_async.testing import FakeService, serve

pytest.importorskip("procrastinate")
PAGE = ROOT / "docs" / "many_machines.md"


async def old_ledger() -> None:
    async with SqliteLedger("grants.db") as ledger:
        await ledger.plan(GrantRequest("old", 1, 4100))


async def rows(url: str) -> dict[str, Grant]:
    async with PostgresLedger(url) as ledger:
        return {grant.ref: grant async for grant in ledger.grants()}


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "shop", None)
    monkeypatch.delitem(sys.modules, "shop")
    requests = [GrantRequest(f"row-{number}", 1, 4300 + number) for number in range(3)]
    with own_schema() as url, serve(service) as server, asyncio.Runner() as runner:
        for name, value in {**server.env(), "no_proxy": "*", "TGMEMBERSHIP_LEDGER": url}.items():
            monkeypatch.setenv(name, value)
        Path("members.csv").write_text("ref,member_id\n" + "".join(f"r{one},{one + 4200}\n" for one in range(5)))
        runner.run(old_ledger())
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE orders (id text PRIMARY KEY)")
        reader = Reader({"__name__": "page", "requests": requests}, runner)
        for fence in fences(PAGE):
            if not fence.code.startswith("pip install"):
                reader.read(fence)
        found = runner.run(rows(url))
    refs = {"old", "stripe:pi_3Nf", "stripe:pi_3Ng", *(f"r{one}" for one in range(5)), *(one.ref for one in requests)}
    assert {ref: grant.status for ref, grant in found.items()} == dict.fromkeys(refs, "granted")
    assert len(service.audit) == len(refs)
