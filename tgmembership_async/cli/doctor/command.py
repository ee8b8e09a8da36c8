"""`tgmembership doctor`: check everything on the way to the service, and report without secrets or values."""

import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio
import click
from attrs import asdict, field, fields, mutable

from tgmembership_async.cli.bots.profiles import CHOSEN, PREFIX, profile
from tgmembership_async.cli.credentials import account, project, project_account, project_id, session
from tgmembership_async.cli.doctor.delivery import check_delivery
from tgmembership_async.cli.doctor.generations import READS, Place, Read, check_generation
from tgmembership_async.cli.doctor.ledger import check_ledger, ledger_of_environment
from tgmembership_async.cli.doctor.network import Check, check_clock, check_network
from tgmembership_async.cli.doctor.shapes import field_name, shape_of
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.ledger_option import Place as LedgerPlace
from tgmembership_async.cli.output import Format, console, format_option, note, resolved, shown, writing
from tgmembership_async.errors import (
    APIError,
    CallError,
    DeadlineExceeded,
    NotSent,
    Unauthorized,
    UnexpectedReply,
    UsageError,
)
from tgmembership_async.middleware import Next
from tgmembership_async.project.client import Project
from tgmembership_async.protocol.endpoints import GENERATIONS
from tgmembership_async.protocol.envelope import Envelope, printable
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.protocol.structuring.results import ShapeError
from tgmembership_async.protocol.wire import Account, Request, Response
from tgmembership_async.session import Session
from tgmembership_async.version import __version__

_EPILOG: Final = """
\b
Examples:
  tgmembership doctor
  tgmembership --env-file .env doctor --format table > report.txt
  tgmembership doctor --format json
  tgmembership --project ID doctor --delivery body.json --headers headers.txt --secret-file project.secret

\b
Exit code:
  0  no check failed
  1  a check failed
  5  the credentials were rejected
"""
_STYLES: Final[Mapping[str, str]] = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}
_DEADLINE: Final = 20.0
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("doctor", epilog=_EPILOG)
@click.option("--delivery", type=_FILE, help="File with the body of a webhook delivery, to be verified, too.")
@click.option("--headers", type=_FILE, help="File with the headers of that delivery: lines of `Name: value`, or JSON.")
@click.option("--secret-file", type=_FILE, help="File with the webhook secret. [env var: TGMEMBERSHIP_WEBHOOK_SECRET]")
@format_option
def command(*, delivery: Path | None, headers: Path | None, secret_file: Path | None, form: Format) -> None:
    """Check ledger, credentials, proxy, host, TLS, clock and the shape of every reply. Nothing is changed.

    If the credentials are not accepted, the other generations of the API and the service's other host are asked, and
    the report says which of them accepts the credentials. With --project ID, a project of API v2 is checked.

    For each method the report lists the fields of the reply with the types of their values, the fields that are
    missing (-) and those unknown to this package (+). The report contains no API key, and no name, link or number of
    your customers, so you can paste it into a bug ticket.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself
    delivered = list(check_delivery(delivery, headers, secret_file))  # first, for it may raise UsageError
    doctor = Doctor(project_id())
    checks = [*doctor.checks(), *delivered]
    if resolved(form) == "table":
        _show(checks)
    else:
        with writing(form, [one.name for one in fields(Check)]) as out:
            for check in checks:
                out.row(asdict(check))
    failed = [check.check for check in checks if check.state == "failed"]
    note(f"Failed: {', '.join(failed)}." if failed else "No check failed.")
    raise SystemExit(Exit.CREDENTIALS if doctor.rejected else Exit.FAILED if failed else Exit.OK)


@mutable
class Doctor:
    """One run of all checks, of a bot or a project. `rejected` is True after the credentials were rejected."""

    _project_id: str | None = None
    ledger: LedgerPlace | None = field(factory=ledger_of_environment)
    rejected: bool = False
    _unreachable: bool = False
    _refusal: str | None = None
    _last: Response | None = None
    _seen_at: datetime | None = None

    def checks(self) -> Iterator[Check]:
        """Run the checks in order and yield each."""
        yield _versions()
        yield from _chosen()
        yield from check_ledger(self.ledger)
        try:
            found = account() if self._project_id is None else project_account(self._project_id)
        except UsageError as error:
            yield Check("credentials", "failed", f"{error}{_of_a_project(self._project_id)}")
            return
        yield from check_network(found)
        configured = _configured(found, self._project_id)
        replies = anyio.run(self._ask_all, configured)
        credentials = self._credentials(replies)
        yield credentials
        if credentials.state == "ok" or self._refusal is not None:
            refusal = None if credentials.state == "ok" else self._refusal
            last = self._last, self._seen_at  # of the configured place
            yield anyio.run(check_generation, configured, refusal, self._project_id, self._record, self._why)
            self._last, self._seen_at = last
        yield check_clock(
            None if self._last is None else self._last.headers.get("date"), self._seen_at or datetime.now(UTC)
        )
        yield from self._envelope()
        yield from replies

    async def _ask_all(self, configured: Place) -> list[Check]:
        checks: list[Check] = []
        options: dict[str, Any] = {
            "deadline": _DEADLINE,
            "retry": RetryPolicy(attempts=2),
            "attempt_middleware": [self._record],
        }
        client = session(**options) if self._project_id is None else project(self._project_id, **options)
        async with client:
            for read in READS[configured.generation]:
                if self.rejected or self._unreachable:
                    checks.append(Check(read.endpoint.method, "skipped", "no other call would succeed either"))
                else:
                    checks.append(await self._ask(client, read))
        return checks

    async def _record(self, request: Request, call_next: Next) -> Response:
        self._last = await call_next(request)
        self._seen_at = datetime.now(UTC)
        return self._last

    async def _ask(self, client: Session | Project, read: Read) -> Check:
        endpoint = read.endpoint
        try:
            reply = await read.call(client)
        except CallError as error:
            self.rejected = isinstance(error, Unauthorized)
            self._unreachable = isinstance(error, NotSent | DeadlineExceeded)
            why = self._why(error)
            self._refusal = None if self._unreachable else self._refusal or why
            return Check(endpoint.method, "failed", why)
        shape = shape_of(endpoint.method, reply.result, read.expected)
        text = f"{shape.text}, in {1000 * reply.elapsed:.0f} ms"
        try:
            endpoint.read(reply.result)
        except ShapeError as misfit:
            text = f"{text}; no accepted shape: {misfit}"
            return Check(endpoint.method, "failed", text, shape.fields, shape.missing, shape.new)
        return Check(
            endpoint.method,
            "note" if shape.missing or shape.new else "ok",
            text,
            shape.fields,
            shape.missing,
            shape.new,
        )

    def _why(self, error: CallError) -> str:
        """Describe an error without quoting the body, which may contain secrets."""
        if isinstance(error, APIError):
            return f"{type(error).__name__}: {error.code} {(error.description or '')[:200]}".rstrip()
        if isinstance(error, UnexpectedReply) and self._last is not None:
            content = printable(self._last.headers.get("content-type") or "no content type", 80)
            return f"no envelope: HTTP {self._last.status}, {content}, {len(self._last.body):,} bytes"
        return f"{type(error).__name__}: {error.args[0]}"

    def _credentials(self, replies: list[Check]) -> Check:
        if self.rejected:
            return Check("credentials", "failed", "rejected; the reason is below, at the first method")
        if any(reply.fields or reply.state in ("ok", "note") for reply in replies):
            return Check("credentials", "ok", "accepted")
        return Check("credentials", "skipped", "no method was answered")

    def _envelope(self) -> Iterator[Check]:
        envelope = None if self._last is None else self._last.envelope
        if self._last is None or not isinstance(envelope, Envelope):
            return
        new = tuple(map(field_name, envelope.extra))
        known = {"code": envelope.code, "description": envelope.description, "request_id": envelope.request_id}
        names = ("ok", *(name for name, value in known.items() if value is not None), *new)
        text = f"HTTP {self._last.status}, code {envelope.code}; fields {', '.join(names)}"
        yield Check("envelope", "note" if new else "ok", text, new=new)


def _configured(account: Account, project_id: str | None) -> Place:
    """Return the generation and the base URL of the settings."""
    if project_id is not None:
        return Place("v2", account.base_url)
    api = next(api for api in GENERATIONS.values() if api.dialect is account.dialect)
    return Place(api.name, account.base_url.removesuffix(api.dialect.path))


def _of_a_project(project_id: str | None) -> str:
    """Return advice for settings of a project without `--project`."""
    given = (os.environ.get(f"{PREFIX}{name}", "") for name in ("BOT_ID", "PROJECT_ID"))
    if project_id is None and any(_UUID.fullmatch(text.strip()) for text in given):
        return ". There is the id of a project, which is a UUID: use tgmembership --project ID doctor"
    return ""


def _versions() -> Check:
    system = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("httpx", "httpcore", "anyio"))
    return Check("versions", "ok", f"tgmembership-async {__version__}, {system}, {libraries}")


def _chosen() -> Iterator[Check]:
    name = os.environ.get(CHOSEN)
    if name:
        where = "a file" if profile(name).key_file else "the keyring"
        yield Check("bot", "ok", f"{name}, from the file of the bots; its key is in {where}")


def _show(checks: list[Check]) -> None:
    """Print lines without a frame, for pasting into a ticket; + marks unknown fields, - missing ones."""
    from rich.text import Text  # noqa: PLC0415 - only tables need it

    screen = console()
    for check in checks:
        line = Text.assemble((f"{check.state:<8}", _STYLES[check.state]), f"{check.check}: {shown(check.told)}")
        screen.print(line, soft_wrap=True)
        for name, kind in check.fields.items():
            new = name in check.new
            screen.print(Text(f"        {'+' if new else ' '} {name}: {kind}", "yellow" if new else ""), soft_wrap=True)
        for name in check.missing:
            screen.print(Text(f"        - {name}", "yellow"), soft_wrap=True)
