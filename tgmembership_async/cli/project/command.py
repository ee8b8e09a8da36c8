"""`members` and `access`, for a bot or a project, and `extend`, `remove`, `ban` and `unban`, for a project only."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import anyio
import click

from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.cli.bots.profiles import PREFIX
from tgmembership_async.cli.credentials import client, project, project_id
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.help_pages import examples
from tgmembership_async.cli.output import Format, format_option, note, write_one, writing
from tgmembership_async.cli.rows import columns_of, row_of
from tgmembership_async.cli.time_arguments import option as time_option
from tgmembership_async.errors import UsageError
from tgmembership_async.project import Membership, Project
from tgmembership_async.protocol.endpoints import check_id, check_uuid
from tgmembership_async.session import Session
from tgmembership_async.values.models import Subscriber

_ID: Final = f"{PREFIX}PROJECT_ID"


def _project_only() -> Project:
    number = project_id()
    if number is None:
        msg = "only projects of API v2 can do this: put --project ID before the command"
        raise UsageError(msg)
    return project(number)


@click.command("members", epilog=examples("members --format csv > members.csv", "--project ID members --user-id 4200"))
@click.option("--user-id", type=click.IntRange(1), help="Show only this user.")
@format_option
def members(*, user_id: int | None, form: Format) -> None:
    """List the members: a bot's subscribers, or a project's memberships, active and past.

    Times are in UTC.
    """
    anyio.run(_members, client(), user_id, form)


async def _members(client: Session | Project, user_id: int | None, form: Format) -> None:
    async with client:
        with writing(form, columns_of(Subscriber if isinstance(client, Session) else Membership)) as out:
            if isinstance(client, Session):
                for one in await client.get_subscribers(user_id):
                    out.row(row_of(one))
                return
            async for membership in client.memberships(user_id):
                out.row(row_of(membership))


@click.command("access", epilog=examples("access 4200 --plan-id 1", "--project ID access 4200"))
@click.argument("user", type=click.IntRange(1))
@click.option("--plan-id", help="Look at this plan only: a number, or a UUID in a project.")
@format_option
def access(*, user: int, plan_id: str | None, form: Format) -> None:
    """Tell whether USER has access now, and until when.

    The exit code is 0 with access and 3 without.
    """
    plan = None if plan_id is None else _plan(plan_id)
    found: Access = anyio.run(_access, client(), user, plan)
    plans = sorted(found.plans, key=str)
    write_one(form, {"allowed": found.allowed, "plans": plans, "expires_at": found.expires_at})
    if not found:
        raise SystemExit(Exit.REFUSED)


def _plan(text: str) -> int | str:
    """Return the id of a plan: a number of a bot, or a UUID of a project."""
    if project_id() is not None:
        return check_uuid("--plan-id", text)
    if not (text.isascii() and text.isdecimal()):
        msg = f"--plan-id must be a number such as 1, not {text!r:.80}"
        raise UsageError(msg)
    return check_id("--plan-id", int(text))


async def _access(client: Session | Project, user: int, plan_id: int | str | None) -> Access:
    async with client:
        return await AccessCheck(client)(user, plan_id)


@click.command(
    "extend",
    epilog=examples(
        "--project ID extend 4200 --until 2027-01-31",
        "--project ID extend --everybody --confirm ID --until 2027-01-31T18:00+01:00",
    ),
)
@click.argument("user", type=click.IntRange(1), required=False)
@click.option("--until", callback=time_option, required=True, help="New end: a date, or a date with a time; UTC.")
@click.option("--everybody", is_flag=True, help="Extend all memberships of the project instead of one user's.")
@click.option("--confirm", default="", help="The project's id again, with --everybody.")
def extend(*, user: int | None, until: datetime, everybody: bool, confirm: str) -> None:
    """Set the end of all memberships of USER. Repeating it changes nothing."""
    if (user is None) != everybody:
        msg = "name a USER, or --everybody"
        raise UsageError(msg)
    if everybody and confirm != project_id():
        msg = f"this changes all memberships of the project: add --confirm {project_id() or 'ID'}"
        raise UsageError(msg)
    if user is None:
        _run(lambda project: project.extend_everybody(until, confirm=confirm))
        note(f"All memberships of the project end at {until}.")
    else:
        _run(lambda project: project.extend_member(user, until))
        note(f"The memberships of user {user} end at {until}.")


@click.command("remove", epilog=examples("--project ID remove 6f1c1f6e-9d4b-4c53-9a57-2b8b0d3c7a10"))
@click.argument("membership_id")
def remove(*, membership_id: str) -> None:
    """End the membership MEMBERSHIP_ID now; `members` shows the ids."""
    check_uuid("MEMBERSHIP_ID", membership_id)
    was_there = _run(lambda project: project.remove_membership(membership_id))
    note("The membership has ended." if was_there else "There is no such membership (any more).")


@click.command("ban", epilog=examples("--project ID ban 4200"))
@click.argument("user", type=click.IntRange(1))
def ban(*, user: int) -> None:
    """Ban USER from the project."""
    _run(lambda project: project.ban(user))
    note(f"User {user} is banned.")


@click.command("unban", epilog=examples("--project ID unban 4200"))
@click.argument("user", type=click.IntRange(1))
def unban(*, user: int) -> None:
    """Lift the ban on USER."""
    was_banned = _run(lambda project: project.unban(user))
    note(f"User {user} is not banned any more." if was_banned else f"User {user} was not banned.")


def _run(call: Callable[[Project], Any]) -> Any:
    project = _project_only()

    async def run() -> Any:
        async with project:
            return await call(project)

    return anyio.run(run)


commands: Final[Mapping[str, click.Command]] = {
    str(one.name): one for one in (members, access, extend, remove, ban, unban)
}
