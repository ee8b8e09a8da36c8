"""`tgmembership doctor`: failed checks, unknown fields, and a report without values and without the API key."""

import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import in_process
import pytest
import trustme
from canary import CANARY_KEY
from click.testing import Result
from scripted_server import Connection, Script, ScriptedServer

from tgmembership_async.cli.doctor.shapes import Shape, kind_of, shape_of
from tgmembership_async.grants import GrantRequest, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve
from tgmembership_async.testing.fake.shapes import SHAPES

Serve = Callable[..., ScriptedServer]


@pytest.fixture(autouse=True)
def _around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "8047883872")
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", CANARY_KEY)
    monkeypatch.delenv("TGMEMBERSHIP_API_KEY_FILE", raising=False)
    monkeypatch.delenv("TGMEMBERSHIP_LEDGER", raising=False)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    service = FakeService(seed=5, api_key=CANARY_KEY)
    service.populate(5)
    with serve(service) as server:
        monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", server.url)
        yield service


run = partial(in_process.run, "doctor")


def found(done: Result) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in map(json.loads, done.stdout.splitlines())}


READS = {method for method in SHAPES if method not in ("addMember", "webhook", "deleteWebhook")}


def test_a_missing_ledger_is_reported(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del service
    path = tmp_path / "secret-name.db"
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", str(path))

    def ledger() -> tuple[int, str, str]:
        done = run()
        assert "secret-name" not in done.output
        check = found(done)["ledger"]
        return done.exit_code, check["state"], check["told"]

    code, state, told = ledger()
    assert (code, state) == (0, "note")
    assert "must_exist=True" in told
    anyio.run(make_ledger, path)
    assert ledger() == (0, "ok", "the file exists and belongs to this user")
    path.rename(tmp_path / "elsewhere")
    code, state, told = ledger()
    assert (code, state) == (1, "failed")
    assert "its lock file shows that a ledger existed" in told
    path.symlink_to(tmp_path / "elsewhere")
    code, state, told = ledger()
    assert (code, state) == (1, "failed")
    assert "the ledger is a symbolic link" in told
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", "postgresql://shop@db/shop")
    assert "ledger" not in found(run())


async def make_ledger(path: Path) -> None:
    async with SqliteLedger(path) as ledger:
        await ledger.plan(GrantRequest("a", 1))


def test_no_check_fails_with_the_fake_service_and_only_reads_are_sent(service: FakeService) -> None:
    done = run()
    assert (done.exit_code, done.stderr) == (0, "No check failed.\n")
    checks = found(done)
    assert checks.keys() > READS
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert checks["getPlans"]["fields"]["plan_id"] == "whole number in a string"
    assert {(request.verb, request.method) for request in service.requests} == {("GET", method) for method in READS}


def test_the_report_contains_no_value(service: FakeService) -> None:
    report = run().stdout + run("--format", "table").stdout
    values = {CANARY_KEY, "8047883872", "My first plan", "9.99", "EUR", "Stripe", "PayPal"}
    values |= {str(order.user_id) for order in service.orders}
    assert [value for value in values if value in report] == []


def test_rejected_credentials_end_it_early(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "nobody")
    done = run()
    assert done.exit_code == 5
    checks = found(done)
    assert checks["credentials"]["state"] == "failed"
    assert checks["countOrders"]["told"] == "Unauthorized: 401 wrong bot id or API key"
    assert [(request.verb, request.method) for request in service.requests] == [("GET", "countOrders"), ("GET", "bot")]
    assert "v1 at 127.0.0.1:" in checks["generation"]["told"]


def test_missing_credentials_are_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGMEMBERSHIP_API_KEY")
    done = run()
    assert done.exit_code == 1
    assert "set either TGMEMBERSHIP_API_KEY or" in found(done)["credentials"]["told"]


def test_a_host_that_refuses_is_reported_once(refused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", f"http://127.0.0.1:{refused_port}")
    done = run()
    assert done.exit_code == 1
    assert done.stderr == "Failed: host, countOrders.\n"
    assert found(done)["host"]["told"] == f"127.0.0.1:{refused_port}: Connection refused"


def test_a_service_that_hangs_is_called_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(connection: Connection) -> None:
        connection.request()
        connection.sock.recv(1)

    server = serve(hang)
    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", server.url)
    monkeypatch.setattr("tgmembership_async.cli.doctor.command._DEADLINE", 0.3)
    done = run()
    assert (done.exit_code, done.stderr) == (1, "Failed: countOrders.\n")
    assert len([request for request in server.requests if request]) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("html", method="getPlans"), "no envelope: HTTP 502, text/html"),
        (Fault("error", method="getPlans"), "ServerError: 500"),
        (Fault("closed", method="getPlans"), "ReplyLost: "),
        (Fault("damaged", method="getPlans"), "no envelope: HTTP 200"),
    ],
)
def test_a_method_that_fails_is_reported_without_its_body(service: FakeService, fault: Fault, told: str) -> None:
    service.inject(fault)
    done = run()
    assert (done.exit_code, done.stderr) == (1, "Failed: getPlans.\n")
    assert found(done)["getPlans"]["told"].startswith(told)
    assert found(done)["plansPerformance"]["state"] == "ok", "the others are looked at"


def answering(results: Mapping[str, Any], date: datetime | None = None, **envelope: Any) -> Script:
    """Answer each method with its entry in `results`, else an empty list, until the client disconnects."""

    def answer(connection: Connection) -> None:
        while request := connection.request():
            method = request.split(b" ")[1].rpartition(b"/")[2].decode()
            headers = {} if date is None else {"date": format_datetime(date, usegmt=True)}
            reply = {"ok": True, "code": 200, "result": results.get(method, []), **envelope}
            connection.answer(200, reply, **headers)

    return answer


def test_a_reply_is_compared_to_the_expected_fields(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"plan_id": 1, "plan_name": "x", "duration": "0", "currency": "EUR", "recurring": 0, "tier": None}
    results = {"getPlans": [plan], "countOrders": 5, "countUsers": "7", "getRevenue": {"EUR": "9.99", "XTR": "5"}}
    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", serve(answering(results, trace="t", request_id="r")).url)
    done = run()
    checks = found(done)
    assert done.exit_code == 1, "a plan without a price does not read"
    assert checks["getPlans"]["state"] == "failed"
    assert "no accepted shape: $[0]: no cost" in checks["getPlans"]["told"]
    assert (checks["getPlans"]["missing"], checks["getPlans"]["new"]) == (["cost"], ["tier"])
    assert checks["envelope"]["new"] == ["trace"]
    assert "request_id" in checks["envelope"]["told"]
    assert checks["getRevenue"]["fields"] == {
        "(the keys)": "string",
        "(the values)": "decimal number in a string or whole number in a string",
    }
    table = run("--format", "table").stdout
    assert "        - cost\n" in table
    assert "        + tier: null\n" in table


@pytest.mark.parametrize(
    ("hours", "state", "told"),
    [
        (0, "ok", r"within 60 s of the service's"),
        (-3, "failed", r"108\d\d s ahead of"),
        (2, "failed", r"7[12]\d\d s behind"),
    ],
)
def test_the_clock_is_compared(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, hours: int, state: str, told: str
) -> None:
    date = datetime.now(UTC) + timedelta(hours=hours)
    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", serve(answering({"countOrders": 1, "countUsers": 1}, date)).url)
    clock = found(run())["clock"]
    assert clock["state"] == state
    assert re.match(told, clock["told"])


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "99999999999 Jan 00:00:00 Z 99999999999",
        "\x1b[2J",
        "",
        "Mon, 99 Jan 2026",
    ],
)
@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_a_hostile_date_or_content_type_is_handled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, date: str, form: str
) -> None:
    def script(connection: Connection) -> None:
        while connection.request():
            connection.answer(502, b"<p>", date=date, content_type="text/\x1b[2J\x9b31m" + "x" * 500)

    monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", serve(script).url)
    done = run("--format", form)
    assert done.exit_code == 1
    assert "502, text/" in done.stdout
    assert {c for c in done.stdout + done.stderr if not c.isprintable()} == {"\n"}
    assert "no answer had a Date header" in done.stdout


class TestTLS:
    """Certificates, and a tunnel through a proxy."""

    @pytest.fixture
    def server(self, serve: Serve, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
        server = serve(answering({"countOrders": 1, "countUsers": 1, "getRevenue": 0}), server_tls)
        monkeypatch.setenv("TGMEMBERSHIP_BASE_URL", server.url)
        return server

    @pytest.fixture
    def trusting(self, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    @pytest.mark.usefixtures("server", "trusting")
    def test_a_trusted_certificate_is_described(self) -> None:
        done = run()
        assert done.exit_code == 0, done.output
        assert found(done)["TLS"]["told"].startswith("TLSv1.3, certificate by trustme")

    @pytest.mark.usefixtures("server")
    def test_an_untrusted_certificate_is_reported_with_the_next_step(self) -> None:
        done = run()
        assert done.exit_code == 1
        assert found(done)["TLS"]["state"] == "failed"
        assert "SSL_CERT_FILE" in found(done)["TLS"]["told"]

    @pytest.mark.usefixtures("trusting")
    def test_a_proxy_is_reported_without_its_password(
        self, server: ScriptedServer, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def tunnel(connection: Connection) -> None:
            if connection.request():
                connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                connection.pipe("127.0.0.1", server.port)

        proxy = serve(tunnel)
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
        done = run()
        assert done.exit_code == 0, done.output
        assert found(done)["proxy"]["told"] == f"http://127.0.0.1:{proxy.port}, from the environment"
        assert "hunter2" not in done.output
        assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{server.port} ".encode())
        assert b"Proxy-Authorization: Basic bWU6aHVudGVyMg==" in proxy.requests[0]
        assert not any(CANARY_KEY.encode() in request for request in proxy.requests)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "boolean"),
        (1, "whole number"),
        (1.5, "decimal number"),
        ("12", "whole number in a string"),
        ("1.5", "decimal number in a string"),
        ("2026-11-20", "date in a string"),
        ("https://t.me/x", "URL"),
        ("x", "string"),
        ("", "empty string"),
        ([], "empty array"),
        ({"a": 1}, "object"),
    ],
)
def test_a_value_is_described_by_its_type(value: object, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("method", "result", "shape"),
    [
        ("countOrders", "60", Shape("whole number in a string")),
        (
            "countOrders",
            {"total": 1, "plan_1": 2},
            Shape("object", {"total": "whole number", "plan_1": "whole number"}, (), ("plan_1",)),
        ),
        ("getSubscribers", [], Shape("empty array")),
        ("getSubscribers", ["a", 1], Shape("array of: string or whole number")),
        (
            "getSubscribers",
            [{"user_id": 1, "plan_id": 2}, {"user_id": "3", "EwvHMLCbokK1XXYp0Pfb": 1}],
            Shape(
                "array of objects",
                {
                    "user_id": "whole number or whole number in a string",
                    "plan_id": "whole number, not always present",
                    "(key that is not a field name)": "whole number, not always present",
                },
                ("started_at", "expires_at"),
                ("(key that is not a field name)",),
            ),
        ),
        (
            "mostPopularPaymentMethods",
            {"Иван": 1},
            Shape("object by key", {"(the keys)": "string", "(the values)": "whole number"}),
        ),
        (
            "plansPerformance",
            {"1": {"plan_name": "x", "sales": 1, "total": "2", "currency": "EUR"}},
            Shape(
                "object of objects by key",
                {
                    "(the keys)": "whole number in a string",
                    "plan_name": "string",
                    "sales": "whole number",
                    "total": "whole number in a string",
                    "currency": "string",
                },
            ),
        ),
    ],
)
def test_a_shape_has_names_and_types_and_no_value(method: str, result: Any, shape: Shape) -> None:
    assert shape_of(method, result) == shape


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in sorted(READS) for name in SHAPES[method]])
def test_no_accepted_shape_has_missing_fields(method: str, name: str) -> None:
    speaking = FakeService(seed=5, shapes={method: name})
    speaking.populate(5)
    target = f"/bot{speaking.bot_id}/{speaking.api_key.reveal()}/{method}".encode()
    reply = json.loads(speaking.handle("GET", target).body)
    missing = shape_of(method, reply["result"]).missing
    assert missing in ((), ("currency",)), "an amount may stand alone"
