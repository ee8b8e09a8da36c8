"""The pages of the desk and its forms, as a Starlette application.

A page is a GET and changes nothing. A decision is a link to a page that asks for confirmation, and a form on it. The
form names what its page showed of the row: a row that has changed since is left as it is, and the answer is a 409.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from importlib.resources import files
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from anyio import Lock
from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tgmembership_async.desk.guard import Guard, Refused, root_of
from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import DECIDED_FROM, OWED, UNDECIDED, Decision, Grant, GrantStatus, check_ref
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.values.models import AccessToken
from tgmembership_async.webhooks.inbox import Entry, EntryStatus, Inbox

V = TypeVar("V", bound=str)
PAGE: Final = 50
_LONGEST: Final = 1_000
_LONGEST_SHOWN: Final = 20_000
_DEAD: Final = [EntryStatus.DEAD]
_FILES: Final = {"desk.css": "text/css", "desk.js": "text/javascript"}


@frozen
class Listing:
    """A page that lists grants."""

    title: str
    text: str
    empty: str
    statuses: Collection[GrantStatus]


LISTINGS: Final[Mapping[str, Listing]] = {
    "held": Listing(
        "Held",
        "The outcome is unknown, or the service refused. These grants wait until you decide.",
        "Nothing waits for a decision.",
        UNDECIDED,
    ),
    "owed": Listing(
        "Owed",
        "These customers paid and have no link yet, whatever the reason.",
        "Every customer who paid has a link, or was abandoned.",
        OWED,
    ),
    "undelivered": Listing(
        "Undelivered",
        "Access is granted, and the bot has not recorded that the customer received the link.",
        "Every link is delivered.",
        frozenset({GrantStatus.GRANTED}),
    ),
}
VERBS: Final[Mapping[Decision, tuple[str, str]]] = {
    "granted": (
        "It was granted",
        "You know that the customer has access, as the chat's list of members shows. Nothing is sent to the service.",
    ),
    "retry": (
        "Send again",
        "The bot sends the grant again at its next run. If the first attempt took effect, the customer gets two links.",
    ),
    "abandon": (
        "Abandon",
        "No access is granted for this ref, now or later. Choose this after a refund.",
    ),
}
LETTER_VERBS: Final[Mapping[str, tuple[str, str]]] = {
    "replay": ("Replay", "The bot handles this event again within a minute, with all of its attempts."),
    "drop": ("Drop", "The event is never handled. You must then do by hand what it requires."),
}


def desk_app(ledger: Ledger, inbox: Inbox | None = None, *, guard: Guard, refresh: float = 3.0) -> ASGIApp:
    """Return the desk of a ledger and, if given, an inbox, both open, behind a Guard.

    A ledger that another process owns is opened with `owner=False`. Pages ask for news every `refresh` seconds. Raises
    UsageError for anything that is not a Ledger or an Inbox.
    """
    if not isinstance(ledger, Ledger) or not isinstance(inbox, Inbox | None):
        msg = "desk_app takes a Ledger and, if there is one, an Inbox: desk_app(SqliteLedger(path, owner=False), ...)"
        raise UsageError(msg)
    return guard.wrap(_Desk(ledger, inbox, guard, refresh).app)


_TEMPLATES: Final = Environment(
    loader=PackageLoader("tgmembership_async.desk"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["shown"] = lambda value: printable(str(value), _LONGEST_SHOWN)


class _Desk:
    def __init__(self, ledger: Ledger, inbox: Inbox | None, guard: Guard, refresh: float) -> None:
        self._ledger = ledger
        self._inbox = inbox
        self._guard = guard
        self._deciding = Lock()
        self._names = {"refresh": refresh, "verbs": VERBS, "letter_verbs": LETTER_VERBS, "query": _query}
        self.app = Starlette(
            routes=[
                Route("/", self._home),
                *(Route(f"/{name}", self._listing) for name in LISTINGS),
                *(Route(f"/{name}", _file) for name in _FILES),
                Route("/search", self._search),
                Route("/grant", self._grant, methods=["GET", "POST"]),
                Route("/decide", self._decide, methods=["GET", "POST"]),
                Route("/letters", self._letters),
                Route("/letter", self._letter, methods=["GET", "POST"]),
                Route("/settle", self._settle, methods=["GET", "POST"]),
            ],
            exception_handlers={
                Refused: self._refused,
                StorageError: self._storage_failed,
                404: self._missing,
            },
        )

    async def _home(self, request: Request) -> Response:
        return RedirectResponse(f"{root_of(request)}/held", 303)

    async def _listing(self, request: Request) -> Response:
        listing = LISTINGS[request.url.path.rpartition("/")[2]]
        after = request.query_params.get("after")
        try:
            rows = self._ledger.grants(listing.statuses, after=None if after is None else check_ref(after))
            grants = await _first(rows, PAGE + 1)
        except (GrantError, UsageError) as error:
            return await self._page(request, "missing", 404, text=str(error))
        return await self._page(request, "listing", listing=listing, grants=grants[:PAGE], is_cut=len(grants) > PAGE)

    async def _search(self, request: Request) -> Response:
        text = request.query_params.get("q", "").strip()[:_LONGEST]
        found = await self._ledger.search(text, limit=PAGE + 1) if text else []
        return await self._page(request, "search", text=text, grants=found[:PAGE], is_cut=len(found) > PAGE)

    async def _grant(self, request: Request) -> Response:
        """Show one grant; a POST also shows its token."""
        ref = request.query_params.get("ref", "")
        if request.method == "POST":
            ref = (await self._guard.form(request, lambda fields: fields.get("ref", "")))["ref"]
        grant = await self._known(ref)
        return await self._page(
            request,
            "grant",
            grant=grant,
            attempts=await self._ledger.attempts(ref),
            decisions=await self._ledger.decisions(ref),
            possible=[verb for verb in VERBS if grant.status in DECIDED_FROM[verb]],
            is_revealed=request.method == "POST",
            csrf=self._guard.form_value(request, ref),
        )

    async def _decide(self, request: Request) -> Response:
        """Ask for the confirmation of a decision; a POST makes it."""
        asked = request.query_params
        if request.method == "GET":
            verb, grant = _verb(asked.get("verb"), VERBS), await self._known(asked.get("ref", ""))
            if grant.status not in DECIDED_FROM[verb]:
                return await self._page(request, "decided", 409, grant=grant)
            return await self._ask(request, verb, grant, {"seen": await self._seen(grant)})
        fields = await self._guard.form(request, _decision)
        verb, ref, reason = _verb(fields.get("verb"), VERBS), fields["ref"], fields.get("reason", "").strip()
        async with self._deciding:
            grant = await self._known(ref)
            if await self._seen(grant) != fields["seen"]:
                return await self._page(request, "decided", 409, grant=grant)
            problem = _problem(reason, fields.get("token", ""))
            if problem:
                return await self._ask(request, verb, grant, fields, problem)
            try:
                await self._ledger.decide(ref, verb, _token(fields.get("token", "")), reason)
            except GrantError:
                return await self._page(request, "decided", 409, grant=await self._known(ref))
        return RedirectResponse(f"{root_of(request)}/grant?{urlencode({'ref': ref})}", 303)

    async def _ask(
        self, request: Request, verb: Decision, grant: Grant, fields: Mapping[str, str], problem: str = ""
    ) -> Response:
        hidden = {"ref": grant.ref, "verb": verb, "seen": fields["seen"]}
        return await self._page(
            request,
            "decide",
            422 if problem else 200,
            verb=verb,
            grant=grant,
            hidden={**hidden, "csrf": self._guard.form_value(request, _decision(hidden))},
            problem=problem,
            reason=fields.get("reason", ""),
        )

    async def _seen(self, grant: Grant) -> str:
        """Return what a later decision is compared with: it changes with each attempt and each decision."""
        return f"{grant.status}.{grant.attempts}.{len(await self._ledger.decisions(grant.ref))}"

    async def _letters(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if self._inbox is None or not after.isdecimal():
            return await self._page(request, "missing", 404, text="There is no such page.")
        found = await self._inbox.entries(_DEAD, after=int(after[:18]), limit=PAGE + 1)
        return await self._page(request, "letters", letters=found[:PAGE], is_cut=len(found) > PAGE)

    async def _letter(self, request: Request) -> Response:
        """Show one dead letter; a POST also shows its body."""
        number = request.query_params.get("id", "")
        if request.method == "POST":
            number = (await self._guard.form(request, lambda fields: fields.get("id", "")))["id"]
        letter = await self._dead(number)
        body = letter.delivery.body.decode("utf-8", "replace") if request.method == "POST" else None
        return await self._page(
            request, "letter", letter=letter, body=body, csrf=self._guard.form_value(request, str(letter.id))
        )

    async def _settle(self, request: Request) -> Response:
        """Ask whether a dead letter is replayed or dropped; a POST does it."""
        asked = request.query_params
        if request.method == "GET":
            return await self._ask_letter(request, _verb(asked.get("verb"), LETTER_VERBS), asked.get("id", ""))
        fields = await self._guard.form(request, _letter_decision)
        verb, reason = _verb(fields.get("verb"), LETTER_VERBS), fields.get("reason", "").strip()
        async with self._deciding:
            letter = await self._dead(fields["id"])
            problem = _problem(reason)
            if problem:
                return await self._ask_letter(request, verb, fields["id"], problem)
            inbox = self._known_inbox()
            try:
                await (inbox.retry(letter.id, reason) if verb == "replay" else inbox.drop(letter.id, reason))
            except UsageError:  # another process settled it a moment ago
                raise _gone(letter.id) from None
        return RedirectResponse(f"{root_of(request)}/letters", 303)

    async def _ask_letter(self, request: Request, verb: str, number: str, problem: str = "") -> Response:
        letter = await self._dead(number)
        hidden = {"id": str(letter.id), "verb": verb}
        csrf = self._guard.form_value(request, _letter_decision(hidden))
        status = 422 if problem else 200
        return await self._page(
            request, "settle", status, verb=verb, letter=letter, hidden={**hidden, "csrf": csrf}, problem=problem
        )

    async def _known(self, ref: str) -> Grant:
        try:
            grant = await self._ledger.get(ref)
        except UsageError:  # no ref at all
            grant = None
        if grant is None:
            msg = "The ledger has no grant with this ref."
            raise Refused(msg, 404)
        return grant

    def _known_inbox(self) -> Inbox:
        if self._inbox is None:
            msg = "This desk has no inbox."
            raise Refused(msg, 404)
        return self._inbox

    async def _dead(self, number: str) -> Entry:
        wanted = int(number[:18]) if number.isdecimal() else 0
        found = await self._known_inbox().entries(_DEAD, after=wanted - 1, limit=1) if wanted else []
        if not found or found[0].id != wanted:
            raise _gone(wanted)
        return found[0]

    async def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        counts = await self._ledger.count()
        tabs: list[tuple[str, str, object]] = [
            (name, listing.title, sum(counts.get(one, 0) for one in listing.statuses))
            for name, listing in LISTINGS.items()
        ]
        if self._inbox is not None:
            dead = len(await self._inbox.entries(_DEAD, limit=PAGE + 1))
            tabs.append(("letters", "Dead letters", f"{PAGE}+" if dead > PAGE else dead))
        here = request.url.path.rpartition("/")[2]
        text = _TEMPLATES.get_template(f"{template}.html").render(
            root=root_of(request), here=here, tabs=tabs, **self._names, **values
        )
        return HTMLResponse(text, status)

    async def _refused(self, request: Request, refused: Exception) -> Response:
        return await self._page(request, "missing", getattr(refused, "status", 403), text=str(refused))

    async def _missing(self, request: Request, _: Exception) -> Response:
        return await self._page(request, "missing", 404, text="There is no such page.")

    async def _storage_failed(self, _: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{printable(str(error))}\n", 503)


def _gone(number: int) -> Refused:
    return Refused(
        f"Delivery {number} is no dead letter, or somebody replayed or dropped it. Nothing was changed.", 409
    )


async def _file(request: Request) -> Response:
    name = request.url.path.rpartition("/")[2]
    text = files("tgmembership_async.desk").joinpath(name).read_text(encoding="utf-8")
    return Response(text, media_type=_FILES[name])


async def _first(rows: AsyncIterator[Grant], limit: int) -> list[Grant]:
    found: list[Grant] = []
    try:
        async for grant in rows:
            found.append(grant)
            if len(found) == limit:
                break
    finally:
        if isinstance(rows, AsyncGenerator):
            await rows.aclose()
    return found


def _query(**values: object) -> str:
    return urlencode({name: str(value) for name, value in values.items()})


def _verb(verb: str | None, known: Mapping[V, object]) -> V:
    """Return the verb of a request. Raises Refused for any other."""
    for one in known:
        if one == verb:
            return one
    msg = "There is no such decision."
    raise Refused(msg, 404)


def _decision(fields: Mapping[str, str]) -> str:
    return "\n".join(fields.get(name, "") for name in ("ref", "verb", "seen"))


def _letter_decision(fields: Mapping[str, str]) -> str:
    return "\n".join(fields.get(name, "") for name in ("id", "verb"))


def _problem(reason: str, token: str = "") -> str:
    """Return the problem with the fields of a decision, or ""."""
    if not reason:
        return "Write down why: the reason is kept with the decision."
    if len(reason) > _LONGEST:
        return "The reason is longer than 1,000 characters."
    return "A link or token is one word." if len(token.split()) > 1 else ""


def _token(text: str) -> AccessToken | None:
    found = text.strip()
    if not found:
        return None
    return AccessToken(link=found, raw=found) if "://" in found else AccessToken(token=found, raw=found)
