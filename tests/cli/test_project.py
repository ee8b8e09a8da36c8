"""`members`, `access`, `extend`, `remove`, `ban` and `unban`: on a project of API v2, and what works on a bot."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import in_process
import pytest
from canary import CANARY_KEY
from click.testing import CliRunner
from project.projects import OTHER, PLAN, PROJECT, row
from scripted_server import ScriptedServer

from tgmembership_async import GrantHeld
from tgmembership_async.cli.root import command
from tgmembership_async.grants import Granter, SqliteLedger
from tgmembership_async.project import Project
from tgmembership_async.testing import FakeProject, FakeServer, Fault
from tgmembership_async.testing import serve as serve_fake

Serve = Callable[..., ScriptedServer]
CALLED: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "memberships"): (200, [row(1), row(2, membership_end_date="2020-01-01T00:00:00.000Z")]),
    ("PATCH", "memberships/42/extend"): (200, {}),
    ("PATCH", "memberships/extend"): (200, {}),
    ("DELETE", f"memberships/{PLAN}"): (204, None),
    ("PUT", "ban/42"): (200, {}),
    ("DELETE", "ban/42"): (200, {}),
}


@pytest.fixture
def service(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedServer:
    def script(connection: Any) -> None:
        while request := connection.request():
            verb, target, _ = request.partition(b"\r\n")[0].decode().split(" ")
            path = target.partition("?")[0].partition(f"/{PROJECT}/")[2]
            status, data = CALLED.get((verb, path), (404, None))
            if status == 204:
                connection.send(b"HTTP/1.1 204 X\r\n\r\n")
                continue
            ok = status == 200
            body = {"ok": ok, "code": status, "error": {"error_code": "NOT_FOUND", "message": "no"}, "data": data}
            if ok:
                del body["error"]
            connection.answer(status, body | ({"total": len(data)} if isinstance(data, list) else {}))

    server = serve(script)
    (tmp_path / "token").write_text(CANARY_KEY)
    for name in ("BOT_ID", "API_KEY", "API_KEY_FILE", "PROJECT_ID", "PROJECT_TOKEN"):
        monkeypatch.delenv(f"TGMEMBERSHIP_{name}", raising=False)
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_BASE_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    return server


run = partial(in_process.run, "--project", PROJECT)


def test_members_are_the_memberships_of_the_project(service: ScriptedServer) -> None:
    done = run("members", "--user-id", "4201", "--format", "json")
    rows = json.loads(done.stdout)
    assert [one["user_id"] for one in rows] == [4201, 4202]
    assert rows[0]["ends_at"].startswith("2027-01-01")
    assert b"user_id=4201" in service.requests[0]
    assert f"authorization: Bearer {CANARY_KEY}".encode() in service.requests[0]


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(("plan", "code"), [(PLAN, 0), (OTHER, 3)])
def test_access_is_told_with_an_exit_code(plan: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = f"{datetime.now(UTC).year + 1}-01-01T00:00:00.000Z"
    monkeypatch.setitem(CALLED, ("GET", "memberships"), (200, [row(1, membership_end_date=soon)]))
    done = run("access", "4201", "--plan-id", plan, "--format", "json")
    assert done.exit_code == code
    assert json.loads(done.stdout)["allowed"] is (code == 0)
    assert json.loads(done.stdout)["plans"] == [PLAN]


@pytest.mark.parametrize(
    ("arguments", "sent", "told"),
    [
        (["extend", "42", "--until", "2199-01-31"], "PATCH", "The memberships of user 42 end at 2199-01-31"),
        (["extend", "--everybody", "--confirm", PROJECT, "--until", "2199-01-31"], "PATCH", "All memberships"),
        (["remove", PLAN], "DELETE", "has ended"),
        (["remove", OTHER], "DELETE", "no such membership"),
        (["ban", "42"], "PUT", "User 42 is banned"),
        (["unban", "42"], "DELETE", "not banned any more"),
        (["unban", "43"], "DELETE", "was not banned"),
    ],
)
def test_a_change_says_what_it_did(arguments: list[str], sent: str, told: str, service: ScriptedServer) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    assert told in done.stderr
    assert [request.split(b" ")[0].decode() for request in service.requests] == [sent]


@pytest.mark.parametrize(
    "arguments",
    [
        ["extend", "--until", "2199-01-31"],
        ["extend", "42", "--everybody", "--until", "2199-01-31"],
        ["extend", "--everybody", "--until", "2199-01-31"],
        ["extend", "42", "--until", "2001-01-31"],
        ["remove", "extend"],
        ["plans"],
    ],
)
def test_what_is_not_clear_is_not_sent(arguments: list[str], service: ScriptedServer) -> None:
    assert run(*arguments).exit_code == 2
    assert service.requests == []


@pytest.mark.usefixtures("service")
def test_a_bot_has_no_project_commands_and_a_project_needs_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(command, ["ban", "42"])
    assert done.exit_code == 2
    assert "put --project ID before the command" in done.stderr
    monkeypatch.delenv("TGMEMBERSHIP_PROJECT_TOKEN_FILE")
    assert "TGMEMBERSHIP_PROJECT_TOKEN" in run("ban", "42").stderr


def test_members_and_access_work_on_a_bot(monkeypatch: pytest.MonkeyPatch) -> None:
    from tgmembership_async.testing import FakeService, serve  # noqa: PLC0415

    service = FakeService()
    service.order(1, 42, "Stripe")
    with serve(service) as server:
        for name, value in {**server.env(), "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(command, ["members", "--format", "json"])
        assert [one["user_id"] for one in json.loads(done.stdout)] == [42]
        assert CliRunner().invoke(command, ["access", "42", "--plan-id", "1"]).exit_code == 0
        assert CliRunner().invoke(command, ["access", "43"]).exit_code == 3


def test_the_ledger_of_a_project_is_shown_and_reconciled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One payment request is created, of one the reply is lost, and one never arrives."""
    shop = FakeProject(project_id=PROJECT, token=CANARY_KEY, per_minute=None, burst=None)
    plan, path = shop.plans[0].plan_id, tmp_path / "orders.db"

    async def sell(server: FakeServer) -> None:
        async with Granter(Project(**server.session_options()), SqliteLedger(path)) as granter:
            await granter.grant("order-1", plan_id=plan, member_id=1)
            for number, fault in (2, Fault("closed", when="after", count=1)), (3, Fault("closed", count=1)):
                shop.inject(fault)
                with pytest.raises(GrantHeld):
                    await granter.grant(f"order-{number}", plan_id=plan, member_id=number)

    with serve_fake(shop) as server:
        anyio.run(sell, server)
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": str(path)}.items():
            monkeypatch.setenv(name, value)
        listed = [json.loads(line) for line in run("grants", "list", "--format", "jsonl").stdout.splitlines()]
        assert [(one["plan_id"], one["status"]) for one in listed] == [
            (plan, "granted"),
            (plan, "unknown"),
            (plan, "unknown"),
        ]
        shown = json.loads(run("grants", "show", "order-1", "--show-links").stdout)
        assert shown["link"] == f"https://checkout.example/{shop.payment_requests[0].payment_request_id}"
        done = run("grants", "reconcile", "--format", "jsonl")
        assert done.exit_code == 4
        assert "2 payment requests are unknown" in done.stderr
        settled, left = (json.loads(line) for line in done.stdout.splitlines())
        assert (settled["ref"], settled["settled"]) == ("order-2", True)
        assert settled["seen"][0]["payment_request_id"] == shop.payment_requests[1].payment_request_id
        assert (left["ref"], left["settled"], left["seen"]) == ("order-3", False, [])
        deciding = ("grants", "resolve", "--status", "unknown", "--reason", "not there", "--yes", "retry")
        assert "plan_id that is not an int must be a UUID" in run(*deciding, "--plan-id", "first").stderr
        for number in ("1", shop.plans[1].plan_id, plan):
            done = run(*deciding, "--plan-id", number)
            assert (f"1 of plan {plan}" in done.stderr) is (number == plan), done.stderr
    assert len(shop.payment_requests) == 2
