"""`tgmembership call`: call any method by name and print its result unchanged."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import click

from tgmembership_async.cli.bots.profiles import PREFIX
from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.output import Format, format_option, note, write_one, writing
from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import (
    ALL_ENDPOINTS,
    GENERATIONS,
    LEGACY_API,
    V1_API,
    call_by_name,
    extra_params,
)
from tgmembership_async.protocol.structuring.objects import is_array, is_object
from tgmembership_async.protocol.wire import Safety
from tgmembership_async.values.models import Reply

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_VERBS: Final = {endpoint.method.lower(): endpoint.verb for endpoint in reversed(ALL_ENDPOINTS)}
_SECRET: Final = frozenset(endpoint.method.lower() for endpoint in ALL_ENDPOINTS if endpoint.secret)
_HARMLESS: Final = frozenset((one.method.lower(), one.verb) for one in ALL_ENDPOINTS if not one.secret)
_BETTER: Final = {
    **dict.fromkeys(
        ("addmember", "members/accesstoken"),
        "tgmembership grant, which stores the token in a ledger and grants once per ref",
    ),
    "bot": "tgmembership doctor, which does not show the API key",
    "webhook": "tgmembership webhook set, which keeps the secret in a file",
}
_EPILOG: Final = """
\b
Examples:
  tgmembership call getPlans plan_id=1
  tgmembership call getSubscribers user_id=4200 --format json
  tgmembership call someNewMethod member_id=4200 --verb POST --safety idempotent

A VALUE of digits is sent as a number, any other VALUE as text. After a lost reply, a safe or idempotent call is sent
again; an unsafe call is not, and exits with code 4.
"""


@click.command("call", epilog=_EPILOG)
@click.argument("method")
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--verb",
    type=click.Choice(["GET", "POST", "PUT", "PATCH", "DELETE"], case_sensitive=False),
    help="HTTP verb. [default: as documented for METHOD, else GET]",
)
@click.option(
    "--safety",
    type=click.Choice(list(map(str, Safety))),
    help="Whether an undocumented METHOD may be sent again. [default: safe for GET, else unsafe]",
)
@click.option("--show-secrets", is_flag=True, help="Allow methods whose reply contains an access token or a secret.")
@format_option
def command(
    *,
    method: str,
    parameters: tuple[str, ...],
    verb: str | None,
    safety: str | None,
    show_secrets: bool,
    form: Format,
) -> None:
    """Call METHOD of the service, documented or not, and print its result.

    An array of objects is printed as rows; a result that is neither an array nor an object as {"result": ...}. Code,
    description, request id, attempts and duration go to stderr.
    """
    used_verb = verb or _VERBS.get(method.lower(), "GET")
    name = method.lower()
    if name in _SECRET and (name, used_verb) not in _HARMLESS and not show_secrets:
        msg = (
            f"the reply may contain an access token or a secret: use {_BETTER[name]}, or add --show-secrets. "
            "Nothing was sent"
        )
        raise UsageError(msg)
    api = GENERATIONS.get(os.environ.get(f"{PREFIX}GENERATION", LEGACY_API.name), V1_API)
    call_by_name(method, used_verb, safety, api)  # refuse a wrong argument before prompting for credentials
    params = extra_params(dict(map(_pair, parameters)))
    reply: Reply[Any] = anyio.run(_call, method, used_verb, params, safety)
    _show(form, reply.result)
    parts = (reply.code, reply.description, reply.request_id and f"request {reply.request_id}")
    tries = f"{reply.attempts} attempt{'s' if reply.attempts > 1 else ''}"
    note(", ".join(str(part) for part in (*parts, tries, f"{1000 * reply.elapsed:.0f} ms") if part))


def _pair(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        msg = f"a parameter must be KEY=VALUE, not {text!r:.80}"
        raise UsageError(msg)
    return key, int(value) if _NUMBER.fullmatch(value) else value


async def _call(method: str, verb: Any, params: Mapping[str, str | int], safety: str | None) -> Reply[Any]:
    async with session() as tg:
        return await tg.call(method, verb=verb, params=params, safety=safety)


def _show(form: Format, result: Any) -> None:
    rows = _rows(result)
    if rows is not None:
        columns = dict.fromkeys(name for row in rows for name in row)
        with writing(form, tuple(columns)) as out:
            for row in rows:
                out.row(row)
    else:
        write_one(form, result if is_object(result) else {"result": result})


def _rows(result: Any) -> Sequence[Mapping[str, Any]] | None:
    return result if is_array(result) and result and all(map(is_object, result)) else None
