"""`tgmembership desk` as a process: the URL, the end, and what is refused."""

import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from click.testing import CliRunner
from command_line import started, tgmembership
from desk_server import bury, fill
from own_schema import own_schema

from tgmembership_async.cli.root import command
from tgmembership_async.grants import PostgresLedger, SqliteLedger
from tgmembership_async.webhooks import SqliteInbox

if TYPE_CHECKING:
    import subprocess


@pytest.fixture
def ledger(quick_path: Path) -> Path:
    path = quick_path / "grants.db"

    async def work() -> None:
        async with SqliteLedger(path) as rows, SqliteInbox(path) as inbox:
            await fill(rows)
            await bury(inbox, "order_completed")

    anyio.run(work)
    return path


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_url_and_ends_in_order(ledger: Path, number: int) -> None:
    with started("desk", "--ledger", str(ledger), "--inbox", str(ledger)) as process:
        url = first_line(process)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", url)
        with httpx.Client(trust_env=False, follow_redirects=True) as browser:
            page = browser.get(url)
            assert "pi_unknown" in page.text
            assert re.search(r"Dead letters <b>1</b>", page.text)
            assert browser.get(page.url.join("nowhere")).status_code == 404
        token = url.partition("token=")[2]
        assert token not in str(page.url) + page.text
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Ctrl-C ends it" in err
    assert token not in err


def test_a_desk_on_a_server_works_beside_its_bots() -> None:
    with own_schema() as url:

        async def work() -> None:
            async with PostgresLedger(url) as rows:
                await fill(rows)

        anyio.run(work)
        with (
            started("desk", "--ledger", url) as process,
            httpx.Client(trust_env=False, follow_redirects=True) as browser,
        ):
            page = browser.get(first_line(process))
            assert "pi_unknown" in page.text
            assert "pi_planned" in browser.get(page.url.join("search"), params={"q": "45"}).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ledger", "missing.db"), "does not exist"),
        (("--ledger", __file__, "--inbox", "postgresql://shop:hunter2@db/shop"), "list of processes"),
        ((), "Missing option '--ledger'"),
    ],
)
def test_wrong_arguments_are_an_error_that_shows_no_password(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(command, ["desk", *arguments], env={"TGMEMBERSHIP_LEDGER": None})
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "hunter2" not in done.output


def test_a_server_without_an_inbox_is_refused(ledger: Path) -> None:
    with own_schema() as url:
        anyio.run(_open_ledger, url)
        environment = {"TGMEMBERSHIP_INBOX": url, "TGMEMBERSHIP_LEDGER": str(ledger)}
        done = CliRunner().invoke(command, ["desk"], env=environment)
    assert done.exit_code == 2
    assert "has no inbox: check the name\n" in done.stderr


async def _open_ledger(url: str) -> None:
    async with PostgresLedger(url):
        pass


def test_a_port_that_is_taken_is_an_error(ledger: Path) -> None:
    with started("desk", "--ledger", str(ledger)) as process:
        port = first_line(process).partition("/?")[0].rpartition(":")[2]
        done = tgmembership("desk", "--ledger", str(ledger), "--port", port)
    assert done.returncode == 2
    assert "use another port" in done.stderr


def test_a_missing_extra_is_named(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = CliRunner().invoke(command, ["desk", "--ledger", str(ledger)])
    assert done.exit_code == 2
    assert "run pip install '.[desk]' in the clone" in done.stderr
