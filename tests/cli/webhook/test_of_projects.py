"""`tgmembership webhook` for a project of API v2: both readings of the secret, and the right one is told."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_line
import httpx
import pytest
from click.testing import CliRunner, Result
from command_line import started
from no_tls import NO_TLS
from ports import free_port

from tgmembership_async.cli.root import command
from tgmembership_async.testing import FakeProject, serve
from tgmembership_async.testing.fake.server import FakeServer


@pytest.fixture(params=["text", "bytes"])
def service(request: pytest.FixtureRequest) -> FakeProject:
    return FakeProject(signs_with=request.param)


@pytest.fixture
def server(service: FakeProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with serve(service) as running:
        for name, value in {**running.env(), "NO_PROXY": "*"}.items():
            monkeypatch.setitem(command_line.ENVIRONMENT, name, value)
            monkeypatch.setenv(name, value)
        yield running


def run(service: FakeProject, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--project", service.project_id, "webhook", *arguments])


def test_a_delivery_on_disk_is_verified_with_both_readings(service: FakeProject, tmp_path: Path) -> None:
    webhook = service.set_webhook("https://shop.example/")
    payment = service.pay(42)
    body = service.outbox.take()[0].body()
    headers = service.sign_delivery(body, webhook.secret, timestamp=time.time(), nonce=None)
    (tmp_path / "secret").write_text(webhook.secret)
    (tmp_path / "headers.json").write_text(json.dumps(headers))
    (tmp_path / "body.json").write_bytes(body)
    files = ("--secret-file", str(tmp_path / "secret"), "--headers", str(tmp_path / "headers.json"))
    done = CliRunner().invoke(command, ["webhook", "verify", *files, str(tmp_path / "body.json")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["data"]["payment_request_id"] == payment
    assert f"ProjectVerifier(..., reading={service.signs_with!r})" in done.stderr
    assert webhook.secret not in done.output
    (tmp_path / "body.json").write_bytes(body + b" ")
    done = CliRunner().invoke(command, ["webhook", "verify", *files, str(tmp_path / "body.json")])
    assert done.exit_code == 1
    assert "CannotVerify: the signature does not match" in done.stderr


@pytest.mark.usefixtures("server")
def test_set_adds_a_webhook_to_the_project_and_keeps_its_secret(service: FakeProject, tmp_path: Path) -> None:
    path = tmp_path / "project.secret"
    done = run(service, "set", "https://shop.example/hook", "--secret-file", str(path))
    assert done.exit_code == 0, done.output
    assert service.webhook is not None
    assert path.read_text() == f"{service.webhook.secret}\n"
    assert service.webhook.secret not in done.output


def test_how_to_delete_it_is_not_documented(service: FakeProject) -> None:
    done = run(service, "delete")
    assert done.exit_code == 2
    assert "not documented" in done.stderr


@pytest.mark.usefixtures("server")
def test_listen_prints_payments_and_the_right_reading(service: FakeProject) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    arguments = ("--project", service.project_id, "webhook", "listen", "--port", str(port), "--set", url)
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "its secret is known" not in process.stderr.readline():
            pass
        payment = service.pay(42)
        shown: Any = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (shown["event"], shown["data"]["payment_request_id"]) == ("payment-request.completed", payment)
    assert f"ProjectVerifier(..., reading={service.signs_with!r})" in err
    assert "Traceback" not in err


def test_listen_tells_why_a_delivery_is_answered_503(service: FakeProject, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("another")
    service.set_webhook("https://shop.example/")
    headers = service.sign_delivery(b"{}", "0f" * 32, timestamp=time.time(), nonce=None)
    with started("webhook", "listen", "--secret-file", str(tmp_path / "secret")) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split("Listening on ")[1].split(";")[0]
        answer = httpx.post(url, content=b"{}", headers=headers, trust_env=False, verify=NO_TLS)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert answer.status_code == 503
    assert "Refused: the signature does not match, and none has so far: check the webhook secret" in err
