"""Held grants: the commands settle them as they are printed, for any ref and ledger, and no secret is shown."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner
from report_samples import LOST, NOW

from tgmembership_async.cli.ledger_option import Place, Server
from tgmembership_async.cli.report.figures import PlanNames
from tgmembership_async.cli.report.held import held, hold
from tgmembership_async.cli.root import command
from tgmembership_async.grants import Grant, GrantRequest, GrantStatus, SqliteLedger

UNKNOWN, REFUSED = GrantStatus.UNKNOWN, GrantStatus.REFUSED
REFS = ["pi_1", "it's $HOME; rm -rf `x`", "-starts-with-a-dash", "--yes", 'a"b', "Заказ №7"]


def grant(ref: str, status: GrantStatus = UNKNOWN) -> Grant:
    return Grant(ref, 1, 42, status, None, 1, "a private note", datetime(2026, 11, 20, 12, tzinfo=UTC), LOST.error)


@pytest.mark.parametrize("ref", REFS)
@pytest.mark.parametrize(("choice", "status"), [(0, "granted"), (1, "planned"), (2, "abandoned")])
def test_each_command_settles_its_grant(ref: str, choice: int, status: str, quick_path: Path) -> None:
    path = quick_path / "the shop's grants.db"

    async def fill() -> Grant:
        async with SqliteLedger(path, clock=lambda: NOW) as rows:
            await rows.claim(GrantRequest(ref, 1, 42))
            return await rows.settle(ref, LOST)

    async def look() -> GrantStatus | None:
        async with SqliteLedger(path, owner=False) as rows:
            found = await rows.get(ref)
            return None if found is None else found.status

    _, line = hold(anyio.run(fill), ref, path, PlanNames()).commands[choice]
    program, *words = shlex.split(line)
    done = CliRunner().invoke(command, words)
    assert (program, done.exit_code) == ("tgmembership", 0), done.stderr
    assert anyio.run(look) == status


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (Path("grants.db"), "grants.db"),
        (Server("postgresql://shop:s3cr3t@db/shop?sslmode=require"), "'postgresql://shop@db/shop?sslmode=require'"),
    ],
)
def test_a_command_names_the_ledger_without_its_password(place: Place, shown: str) -> None:
    one = hold(grant("pi_1"), "7:pi_1", place, PlanNames())
    assert [line for _, line in one.commands] == [
        f"tgmembership grants resolve --ledger {shown} --reason {reason} 7:pi_1 {decision}"
        for reason, decision in (
            ("'the member has access'", "granted"),
            ("'the member has no access'", "retry"),
            ("'given up'", "abandon"),
        )
    ]
    assert "a private note" not in str(one)
    assert one.about == "Plan 1, member 42, since 2026-11-20 12:00 UTC"


def test_the_section_tells_how_many_there_are_and_what_is_about_all() -> None:
    place = Path("grants.db")
    holds = [hold(grant("a"), "a", place, PlanNames())]
    [found] = held(holds, {UNKNOWN: 1_200, REFUSED: 2, GrantStatus.GRANTED: 9}, place)
    assert found.text == (
        "1,202 grants wait for your decision. Nothing is sent again until then. The list has the oldest 1."
    )
    assert [line for _, line in found.commands] == [
        "tgmembership grants reconcile --ledger grants.db",
        "tgmembership grants list --status refused --ledger grants.db",
    ]
    [found] = held(holds, {UNKNOWN: 1}, place)
    assert found.text == "1 grant waits for your decision. Nothing is sent again until then."
    assert list(held([], {GrantStatus.GRANTED: 9}, place)) == []
