"""`examples/project_shop.py` as a child process: payments are in its books once, also after a kill."""

import contextlib
import os
import signal
import socket
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from forked import Forked
from killed_receiver import until
from ports import free_port

from tgmembership_async.testing import FakeProject, Postal, serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "project_shop.py"


def books(folder: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "books.db")) as connection:
        try:
            return connection.execute("SELECT user_id, what, amount FROM paid ORDER BY user_id").fetchall()
        except sqlite3.OperationalError:
            return []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_payments_are_in_the_books_once(quick_path: Path) -> None:
    service, port = FakeProject(), free_port()
    with serve(service, postal=Postal(attempts=12, pause=0.05, duplicated=0.5)) as server:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            **server.env(),
            "PYTHONPATH": str(EXAMPLE.parents[1]),
            "SHOP_URL": f"http://127.0.0.1:{port}",
            "SHOP_FOLDER": str(quick_path),
            "PORT": str(port),
        }

        def started() -> Forked:
            shop = Forked([sys.executable, EXAMPLE], env=environment)
            until(answers, "it does not start")
            return shop

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        shop = started()
        try:
            late = service.pay(42, with_membership=False)
            service.top_up(43, "5.00")
            until(lambda: books(quick_path) == [(43, "balance", "5.00 EUR")], "the top-up is not told")
            shop.send_signal(signal.SIGKILL)
            shop.wait(60)
            service.give_membership(late)
            shop = started()
            wanted = [(42, "My first plan", "9.99 EUR"), (43, "balance", "5.00 EUR")]
            until(lambda: books(quick_path) == wanted, "the payment is not told")
            shop.send_signal(signal.SIGINT)
            shop.wait(60)
        finally:
            shop.kill()
    assert stat.S_IMODE((quick_path / "project-webhook.secret").stat().st_mode) == 0o600
    assert [effect.what for effect in service.audit].count("webhook") == 1
