"""`tgmembership webhook`: set, delete, listen, verify and sign, as child processes with the fake service."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command_line
import httpx
import pytest
from asgi_server import on_uvicorn
from canary import CANARY_SECRET
from click.testing import CliRunner, Result
from command_line import started, tgmembership
from no_tls import NO_TLS
from ports import free_port
from webhook_deliveries import body, signed

from tgmembership_async.cli.root import command
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.testing.fake.server import FakeServer
from tgmembership_async.webhooks import Event, Receiver, SqliteInbox, Verifier


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with serve(FakeService()) as running:
        for name, value in running.env().items():
            monkeypatch.setitem(command_line.ENVIRONMENT, name, value)
        yield running


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "webhook.secret"
    path.write_text(f"{CANARY_SECRET}\n")
    return path


@pytest.fixture
def listening(secret_file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started("webhook", "listen", "--secret-file", str(secret_file)) as process:
        yield process, address_of(process)


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().split("Listening on ")[1].split(";")[0]


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def ask(verb: str, url: str, **options: Any) -> httpx.Response:
    return httpx.request(verb, url, trust_env=False, verify=NO_TLS, **options)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_listening_ends_in_order_with_its_terminal(name: str, listening: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = listening
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_secret_file_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text("{}")
    (tmp_path / "plain").write_text(CANARY_SECRET)
    (tmp_path / "marked").write_text(f"{CANARY_SECRET}\r\n", encoding=encoding)
    signed = [
        tgmembership("webhook", "sign", "--nonce", "n", "--timestamp", "1", "--secret-file", *map(str, files)).stdout
        for files in ((tmp_path / name, tmp_path / "body.json") for name in ("plain", "marked"))
    ]
    assert signed[0]
    assert signed[0] == signed[1]


def first_line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


class TestSetAndDelete:
    def test_the_secret_is_written_to_a_new_private_file(self, server: FakeServer, tmp_path: Path) -> None:
        path = tmp_path / "new.secret"
        done = tgmembership("webhook", "set", "https://shop.example/hook", "--secret-file", str(path))
        webhook = server.service.webhook
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"url": "https://shop.example/hook", "secret_file": str(path)}
        assert webhook is not None
        assert path.read_text() == f"{webhook.secret}\n"
        if sys.platform != "win32":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_secret_is_thrown_away_only_if_that_is_confirmed(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = tgmembership("webhook", "set", "https://shop.example/hook")
        assert (done.returncode, server.service.webhook) == (2, None)
        assert "--secret-file FILE" in done.stderr
        assert "--force" in done.stderr
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("tgmembership_async.cli.webhook.command._is_interactive", lambda: True)
        set_it = ["webhook", "set", "https://shop.example/hook"]
        refused = CliRunner().invoke(command, set_it, input="n\n")
        assert refused.exit_code != 0
        assert "discard the secret? [y/N]" in refused.stderr
        assert server.service.webhook is None
        assert CliRunner().invoke(command, set_it, input="y\n").exit_code == 0
        assert server.service.webhook is not None

    async def test_a_receiver_that_runs_already_verifies_with_the_secret_that_is_saved(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        path, paid = tmp_path / "webhook.secret", asyncio.Event()
        receiver = Receiver(Verifier.from_file(path), SqliteInbox(tmp_path / "inbox.db"), probes=True)

        @receiver.on("order_completed")
        async def note(_: Event) -> None:
            paid.set()

        async with on_uvicorn(receiver.asgi) as url:
            async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
                assert (await client.post(url, content=body())).status_code == 503
            done = await asyncio.to_thread(tgmembership, "webhook", "set", url, "--save-secret", str(path))
            assert done.returncode == 0, done.stderr
            server.service.order(1, 42)
            async with asyncio.timeout(60):
                await paid.wait()

    def test_a_file_that_cannot_be_written_is_found_before_the_webhook_is_set(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "missing" / "new.secret"
        done = tgmembership("webhook", "set", "https://shop.example/hook", "--secret-file", str(path))
        assert (done.returncode, server.service.webhook) == (2, None)
        assert "cannot be created" in done.stderr

    def test_without_a_file_the_secret_is_not_printed(self, server: FakeServer) -> None:
        done = tgmembership("webhook", "set", "https://shop.example/hook", "--force")
        assert server.service.webhook is not None
        assert done.returncode == 0
        assert "not printed" in done.stderr
        assert server.service.webhook.secret not in done.stdout + done.stderr

    def test_an_existing_file_is_not_overwritten(self, server: FakeServer, secret_file: Path) -> None:
        done = tgmembership("webhook", "set", "https://shop.example/hook", "--secret-file", str(secret_file))
        assert done.returncode == 2
        assert "already exists" in done.stderr
        assert server.service.webhook is None

    def test_a_url_that_does_not_answer_200_is_an_error(
        self, server: FakeServer, refused_port: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "new.secret"
        done = tgmembership("webhook", "set", f"http://127.0.0.1:{refused_port}/", "--save-secret", str(path))
        assert done.returncode == 3
        assert not path.exists()
        assert "url must answer 200" in done.stderr
        assert server.service.webhook is None

    def test_the_webhook_is_deleted(self, server: FakeServer) -> None:
        server.service.set_webhook("https://shop.example/")
        done = tgmembership("webhook", "delete")
        assert (done.returncode, done.stdout) == (0, "")
        assert server.service.webhook is None


class TestListen:
    def test_events_and_the_headers_found_are_printed(self, listening: tuple[subprocess.Popen[str], str]) -> None:
        process, url = listening
        content = body(17, user_id="42")
        for _ in range(2):
            assert ask("POST", url, content=content, headers=signed(content)).status_code == 200
        shown = first_line(process)
        assert (shown["event"], shown["data"]) == ("order_completed", {"order_id": 17, "user_id": "42"})
        code, out, err = ended(process)
        assert (code, out) == (0, "")
        assert err.count("signature_header='x-webhook-signature', nonce_header='x-webhook-nonce'") == 1
        assert "Traceback" not in err

    def test_the_reason_for_a_refusal_is_printed_without_header_values(
        self, listening: tuple[subprocess.Popen[str], str]
    ) -> None:
        process, url = listening
        reply = ask("POST", url, content=b"{}", headers={"X-Odd": "sEcReT0"})
        assert reply.status_code == 401
        _, _, err = ended(process)
        assert "Refused: no signature in any header. Headers: host, " in err
        assert "x-odd" in err
        assert "sEcReT0" not in err

    def test_probes_are_answered(self, listening: tuple[subprocess.Popen[str], str]) -> None:
        _, url = listening
        assert [ask(verb, url).status_code for verb in ("GET", "HEAD", "POST", "PUT")] == [
            200,
            200,
            200,
            405,
        ]

    def test_set_uses_the_secret_of_the_reply(self, server: FakeServer) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        with started("webhook", "listen", "--port", str(port), "--set", url) as process:
            assert address_of(process) == url
            assert process.stderr is not None
            assert "its secret is known" in process.stderr.readline()
            server.service.order(1, 42)
            assert first_line(process)["data"]["user_id"] == "42"
            assert server.service.webhook is not None
            code, _, err = ended(process)
        assert code == 0
        assert server.service.webhook.secret not in err

    def test_orders_of_the_fake_command_are_received(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with started("fake", "--order-every", "0.2") as fake:
            assert fake.stdout is not None
            for name, value in (fake.stdout.readline().strip().split("=", 1) for _ in range(3)):
                monkeypatch.setitem(command_line.ENVIRONMENT, name, value)
            port = free_port()
            with started("webhook", "listen", "--port", str(port), "--set", f"http://127.0.0.1:{port}/") as process:
                orders = [first_line(process)["data"]["order_id"] for _ in range(3)]
                assert len(set(orders)) == 3
                assert ended(process)[0] == 0

    def test_set_fails_for_a_url_that_does_not_lead_to_the_port(self, server: FakeServer, refused_port: int) -> None:
        done = tgmembership("webhook", "listen", "--set", f"http://127.0.0.1:{refused_port}/")
        assert server.service.webhook is None
        assert done.returncode == 3
        assert "url must answer 200" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_missing_secret_is_an_error_with_the_next_step(self) -> None:
        done = tgmembership("webhook", "listen")
        assert done.returncode == 2
        assert "--secret-file" in done.stderr
        assert "or use --set URL to get a new one" in done.stderr

    def test_a_port_in_use_is_a_clear_error(self, secret_file: Path, server: FakeServer) -> None:
        done = tgmembership("webhook", "listen", "--port", str(server.port), "--secret-file", str(secret_file))
        assert done.returncode == 2
        assert f"cannot listen on port {server.port}" in done.stderr


def invoked(*arguments: str) -> Result:
    """Run a command that uses neither network nor signals in this process."""
    return CliRunner().invoke(command, ["webhook", *arguments])


class TestVerifyAndSign:
    @pytest.fixture
    def body_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "body.json"
        path.write_bytes(body(17))
        return path

    @pytest.mark.parametrize("more", [[], ["--nonce", "abc123", "--timestamp", "1700000000"], ["--later-generation"]])
    def test_a_signed_body_verifies(self, tmp_path: Path, secret_file: Path, body_file: Path, more: list[str]) -> None:
        headers = tmp_path / "headers.txt"
        done = invoked("sign", "--secret-file", str(secret_file), *more, str(body_file))
        assert done.exit_code == 0
        headers.write_text(done.stdout)
        done = self.verified(secret_file, headers, body_file)
        assert done.exit_code == 0
        assert json.loads(done.stdout)["data"] == {"order_id": 17}
        how = (
            "of API v2; its key is the text" if "--later-generation" in more else "in the header 'x-webhook-signature'"
        )
        assert f"Signature {how}" in done.stderr

    def verified(self, secret_file: Path, headers: Path, body_file: Path, *more: str) -> Result:
        arguments = ["--secret-file", str(secret_file), "--headers", str(headers), str(body_file), *more]
        return invoked("verify", *arguments)

    @pytest.mark.parametrize("dump", [dict, lambda headers: [[name, value] for name, value in headers.items()]])
    def test_headers_can_be_json(
        self, tmp_path: Path, secret_file: Path, body_file: Path, dump: Callable[[Any], Any]
    ) -> None:
        headers = tmp_path / "headers.json"
        headers.write_text(json.dumps(dump(signed(body(17)))))
        assert self.verified(secret_file, headers, body_file).exit_code == 0

    @pytest.mark.parametrize("text", ["[1]", '[["a"]]', '"x"', "[[1, 2, 3]]"])
    def test_json_that_is_not_headers_is_an_error(
        self, tmp_path: Path, secret_file: Path, body_file: Path, text: str
    ) -> None:
        headers = tmp_path / "headers.json"
        headers.write_text(text)
        done = self.verified(secret_file, headers, body_file)
        assert done.exit_code == 2
        assert "pairs" in done.stderr

    def test_the_reason_for_a_failed_verification_is_printed(
        self, tmp_path: Path, secret_file: Path, body_file: Path
    ) -> None:
        headers = tmp_path / "headers.txt"
        for of, at, arguments, why in (
            (body(18), time.time(), (), "NotAuthentic: the signature does not match"),
            (body(17), 1_000, ("--max-age", "300"), "NotAuthentic: it was signed"),
        ):
            headers.write_text("HTTP/1.1\n" + "\n".join(f"{n}: {v}" for n, v in signed(of, at=at).items()))
            done = self.verified(secret_file, headers, body_file, *arguments)
            assert (done.exit_code, done.stdout) == (1, "")
            assert why in done.stderr

    def test_authentic_but_unreadable(self, tmp_path: Path, secret_file: Path, body_file: Path) -> None:
        body_file.write_bytes(b"[]")
        headers = tmp_path / "headers.json"
        headers.write_text(json.dumps(signed(b"[]")))
        done = self.verified(secret_file, headers, body_file)
        assert done.exit_code == 1
        assert "Unreadable: authentic, but not an event" in done.stderr

    def test_the_secret_can_be_in_the_environment(self, body_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TGMEMBERSHIP_WEBHOOK_SECRET", f" {CANARY_SECRET}\n")
        done = invoked("sign", "--nonce", "n", "--timestamp", "1700000000", str(body_file))
        assert done.stdout.splitlines() == [f"{n}: {v}" for n, v in signed(body(17), nonce="n", at=1.7e9).items()]

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            (["--later-generation", "--nonce", "x"], "without a nonce"),
            (["--nonce", "a.b"], "without dots"),
            (["--timestamp", "-1"], "range"),
        ],
    )
    def test_wrong_use_is_told(self, secret_file: Path, body_file: Path, more: list[str], why: str) -> None:
        done = invoked("sign", "--secret-file", str(secret_file), *more, str(body_file))
        assert done.exit_code == 2
        assert why in done.stderr

    def test_a_secret_file_that_is_not_text_is_an_error(self, tmp_path: Path, body_file: Path) -> None:
        path = tmp_path / "binary"
        path.write_bytes(b"\xff\xff")
        done = invoked("sign", "--secret-file", str(path), str(body_file))
        assert done.exit_code == 2
        assert "not UTF-8" in done.stderr
