"""`tgmembership doctor` on v1 and v2: where credentials belong, and how the webhook secret is read."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import CANARY_KEY
from click.testing import CliRunner, Result
from scripted_server import Connection, ScriptedServer

from tgmembership_async.cli.doctor.generations import Place, others
from tgmembership_async.cli.root import command
from tgmembership_async.testing import FakeProject, FakeService, serve

Serve = Callable[..., ScriptedServer]
PROJECT = FakeProject().project_id


@pytest.fixture(autouse=True)
def _around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("API_KEY_FILE", "LEDGER", "GENERATION", "PROJECT_ID", "PROJECT_TOKEN_FILE", "WEBHOOK_SECRET"):
        monkeypatch.delenv(f"TGMEMBERSHIP_{name}", raising=False)
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "8047883872")
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", CANARY_KEY)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProject]:
    service = FakeProject(token=CANARY_KEY, seed=5)
    service.pay(4200)
    service.ban("4201")
    with serve(service) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        yield service


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def found(done: Result) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in map(json.loads, done.stdout.splitlines())}


def test_a_project_is_checked_with_reads_only_and_without_values(project: FakeProject) -> None:
    done = run("--project", PROJECT, "doctor")
    assert done.exit_code == 0, done.output
    checks = found(done)
    assert checks["generation"]["told"] == f"v2 at 127.0.0.1:{_port(checks)}, as expected"
    reads = ["plans", "users", "memberships", "payment-requests", "ban"]
    assert [(request.verb, request.method) for request in project.requests] == [("GET", method) for method in reads]
    assert {checks[method]["state"] for method in reads} <= {"ok", "note"}
    assert checks["memberships"]["fields"]["membership_id"] == "string"
    assert "subscription_id" in checks["memberships"]["missing"]
    values = {CANARY_KEY, "4200", "4201", PROJECT, project.memberships[0].membership_id, "My first plan"}
    output = done.output.replace(_port(checks), "PORT")  # a port may contain a user's id
    assert [value for value in values if value in output] == []


def _port(checks: dict[str, Any]) -> str:
    return str(checks["host"]["told"].split(":")[1].split(" ")[0])


def test_a_token_that_no_host_accepts_is_reported(project: FakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_PROJECT_TOKEN", "another")
    done = run("--project", PROJECT, "doctor")
    told = found(done)["generation"]["told"]
    assert done.exit_code == 5
    assert told.startswith("expected v2 at 127.0.0.1:")
    assert "Unauthorized: 401 the token is wrong. Next: check the credentials, which are of another bot" in told
    assert project.count_requests() == 1


def test_v1_is_checked_with_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService(api_key=CANARY_KEY)
    monkeypatch.setenv("TGMEMBERSHIP_GENERATION", "v1")
    with serve(service) as server:
        monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", server.url)
        done = run("doctor")
    assert done.exit_code == 0, done.output
    checks = found(done)
    assert checks["bot"]["fields"] == {"bot_id": "whole number", "api_key": "string"}
    assert checks["generation"]["told"].startswith("v1 at 127.0.0.1:")
    assert [request.method for request in service.requests] == ["bot"]
    assert CANARY_KEY not in done.output


@pytest.mark.parametrize(("configured", "right"), [("legacy", "v1"), ("v1", "legacy")])
def test_the_generation_that_accepts_the_credentials_is_named(
    configured: str, right: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(connection: Connection) -> None:
        while request := connection.request():
            is_v1 = request.split(b" ")[1].startswith(b"/v1/")
            if is_v1 == (right == "v1"):
                connection.answer(200, {"ok": True, "code": 200, "result": []})
            else:
                connection.answer(404, {"ok": False, "code": 404, "description": "no such bot"})

    server = serve(script)
    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", server.url)
    monkeypatch.setenv("TGMEMBERSHIP_GENERATION", configured)
    done = run("doctor")
    where = f"127.0.0.1:{server.port}"
    check = found(done)["generation"]
    assert (done.exit_code, check["state"]) == (1, "failed")
    assert check["told"] == (
        f"expected {configured} at {where}; came {configured} at {where}: NotFound: 404 no such bot; "
        f"{right} at {where}: accepted. "
        f"Next: set TGMEMBERSHIP_GENERATION={right} and TGMEMBERSHIP_BASE_URL={server.url}"
    )


def test_only_the_services_own_hosts_are_asked_instead_of_another() -> None:
    old, new = "https://api.tgmembership.com", "https://api.botsubscription.com"
    assert others(Place("legacy", old)) == [Place("v1", old), Place("legacy", new), Place("v1", new)]
    assert others(Place("v2", new)) == [Place("v2", old)]
    assert others(Place("legacy", "https://tg.example")) == [Place("v1", "https://tg.example")]
    assert others(Place("v2", "https://tg.example")) == []


def test_the_id_of_a_project_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", PROJECT)
    done = run("doctor")
    assert done.exit_code == 1
    assert "use tgmembership --project ID doctor" in found(done)["credentials"]["told"]


@pytest.mark.parametrize("reading", ["text", "bytes"])
@pytest.mark.usefixtures("project")
def test_the_reading_of_the_secret_that_verifies_is_told(reading: Any, tmp_path: Path) -> None:
    service = FakeProject(signs_with=reading)
    webhook = service.set_webhook("https://shop.example/")
    payment = service.pay(42)
    body, files = service.outbox.take()[0].body(), tmp_path
    (files / "secret").write_text(webhook.secret)
    (files / "body").write_bytes(body)
    (files / "headers").write_text(
        json.dumps(service.sign_delivery(body, webhook.secret, timestamp=time.time(), nonce=None))
    )
    arguments = ["--project", PROJECT, "doctor", "--delivery", str(files / "body"), "--headers", str(files / "headers")]
    done = run(*arguments, "--secret-file", str(files / "secret"))
    assert done.exit_code == 0, done.output
    told = found(done)["webhook"]["told"]
    assert told.startswith("PaymentRequestCompleted is authentic. Signature of API v2; its key is ")
    assert f"reading={reading!r}" in told
    (files / "secret").write_text("another")
    done = run(*arguments, "--secret-file", str(files / "secret"))
    assert done.exit_code == 1
    told = found(done)["webhook"]["told"]
    assert "the signature does not match" in told
    assert "expected X-Webhook-Signature: v1=<64 hex>" in told
    assert told.endswith("came x-webhook-signature with 64 hex digits")
    assert [value for value in (webhook.secret, payment) if value in done.output] == []
    done = run(*arguments[:5])
    assert done.exit_code == 2
    assert "belong together" in done.stderr
