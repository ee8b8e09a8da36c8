"""The Granter: one access token for each ref, however often it is requested, and whenever the process ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

from anyio import CancelScope, current_time, move_on_after
from anyio.lowlevel import checkpoint
from attrs import evolve

from tgmembership_async.client import Client, account_of
from tgmembership_async.errors import GrantError, InvalidValue, RefConflict, UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import ledger_of_bot
from tgmembership_async.grants.exchange import HandOver, Shared, answer, carry_out
from tgmembership_async.grants.follow_ups import accept_former_names
from tgmembership_async.grants.job import as_coroutine_function
from tgmembership_async.grants.ledger import Ledger, SettlesLater, get_many
from tgmembership_async.grants.model import (
    OWED,
    Decision,
    Grant,
    GrantRequest,
    GrantStatus,
    RefTooLong,
    check_decision,
    check_ref,
)
from tgmembership_async.grants.paging import planned_requests
from tgmembership_async.grants.provisioning import EVERY_REASON, Requests, Run, StopReason, check_concurrency
from tgmembership_async.grants.reconciling import Finding, reconcile
from tgmembership_async.grants.unrecorded import UnrecordedAnswers
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.renamed import warn_renamed
from tgmembership_async.session import Session
from tgmembership_async.settings import seconds, service_of
from tgmembership_async.values.models import AccessToken

if TYPE_CHECKING:  # not loaded by users of a Session
    from tgmembership_async.project.client import Project

_AUTOMATIC: Final = "regrant_limit"


class Granter(AsyncResource):
    """Grant through a Session, with a ledger around each call.

    With a Project, a grant is a payment request: `plan_id` is the UUID of its plan, `member_id` the user who pays. A
    row is `granted` when the payment request was created, whose URL is its `link` if the service gives one, and whose
    id is its `token.raw`. The service sends a webhook when the user has paid.

    The intent is durable before the request is sent, and the result before `grant` returns. Entering the Granter opens
    the session and the ledger, unless they are open already. `regrant_limit` is how often an unknown outcome may be
    sent again without a decision: above 0 a customer waits less, but may get two tokens, one of them wasted.

    An answer that the ledger cannot store is kept in memory, and offered to it again until it is stored. Closing waits
    for that, `recording_timeout` seconds at most, and then logs the refs whose answers could not be stored.
    """

    def __init__(
        self, session: "Session | Project", ledger: Ledger, *, regrant_limit: int = 0, recording_timeout: float = 30.0
    ) -> None:
        if not isinstance(session, Client) or not isinstance(ledger, Ledger):
            msg = "Granter takes a Session or Project, and a Ledger, such as SqliteLedger('grants.db')"
            raise UsageError(msg)
        if isinstance(regrant_limit, bool) or not isinstance(regrant_limit, int) or regrant_limit < 0:
            msg = f"regrant_limit must be an int of at least 0, not {regrant_limit!r:.80}"
            raise UsageError(msg)
        accept_former_names(ledger)
        self._session = session
        self._is_of_project = not isinstance(session, Session)
        self._ledger = ledger
        self._regrant_limit = regrant_limit
        self._recording_timeout = seconds("recording_timeout", recording_timeout)
        self._unrecorded = UnrecordedAnswers(ledger)
        self._is_bound = False
        self._running: dict[str, Shared] = {}
        self._tasks: dict[asyncio.Task[None], Shared] = {}
        self._entered: list[Client | Ledger] = []
        self._is_open = False

    @property
    def ledger(self) -> Ledger:
        """Return the ledger that it grants with: in one that several bots share, this bot's part, once it is open."""
        return self._ledger

    @property
    def is_open(self) -> bool:
        """Tell whether it was entered and not closed since."""
        return self._is_open

    async def open(self) -> Self:
        """Open the ledger and the session, unless they are open already.

        Raises UsageError if the ledger belongs to another bot or service. A ledger that belongs to none is bound to
        this bot with the first request.
        """
        if self._is_open:
            msg = "this Granter is open already"
            raise UsageError(msg)
        try:
            for part in (self._ledger, self._session):
                if not part.is_open:
                    await part.open()
                    self._entered.append(part)
            await self._bind(record=False)
        except BaseException:
            await self._leave()
            raise
        self._unrecorded.open()
        self._is_open = True
        return self

    async def aclose(self) -> None:
        """Wait for exchanges in flight, `grant_timeout` seconds at most, and close what `open` opened.

        Then wait for answers that are not stored yet, `recording_timeout` seconds at most.
        """
        self._is_open = False
        try:
            if self._session in self._entered:
                # This ends the grants that are not sent yet at once, and waits for requests in flight.
                self._entered.remove(self._session)
                await self._session.aclose()
            await self._finish(self._session.grant_timeout)
        finally:
            with CancelScope(shield=True):
                for task, shared in tuple(self._tasks.items()):
                    if not shared.recording:
                        task.cancel()
                end = current_time() + self._recording_timeout
                await self._finish(self._recording_timeout)
                await self._unrecorded.aclose(max(0.0, end - current_time()))
                await self._leave()

    async def _finish(self, seconds: float) -> None:
        with move_on_after(seconds):
            while self._running:
                await next(iter(self._running.values())).wait()
                await checkpoint()

    async def _bind(self, *, record: bool) -> None:
        """Check that the ledger belongs to this bot; with `record`, bind a ledger that belongs to none."""
        account = account_of(self._session)
        self._ledger = await ledger_of_bot(self._ledger, service_of(account), account.number, record=record)
        self._unrecorded.ledger = self._ledger
        self._is_bound = record

    async def _leave(self) -> None:
        while self._entered:
            await self._entered.pop().aclose()

    async def grant(
        self,
        ref: str,
        *,
        plan_id: int | str,
        member_id: int | None = None,
        note: str = "",
        paid_at: datetime | None = None,
    ) -> Grant:
        """Return the granted row of `ref`: from the ledger if it is granted there, else after one exchange.

        Raises RefConflict for another plan or member under this ref. Raises GrantHeld while its outcome is unknown, on
        every call until it is decided. Raises the stored error if the service refused. Raises NotSent, RateLimited,
        Unauthorized or DeadlineExceeded if nothing was done and calling again is safe. Raises GrantHeld, too, if the
        service has answered and the ledger cannot store that in time: `.grant` then holds the answer, which is offered
        to the ledger again until it is stored. Cancelling a call does not stop its exchange.
        """
        request = GrantRequest(ref, plan_id, member_id, note, paid_at)
        done = await self._grant_one(request, self._session)
        assert done is not None  # noqa: S101 - only a run hands over
        return answer(done[0])

    async def plan(
        self,
        ref: str,
        *,
        plan_id: int | str,
        member_id: int | None = None,
        note: str = "",
        paid_at: datetime | None = None,
    ) -> Grant:
        """Record the intent, which is durable on return; `run_planned` or `grant` carries it out."""
        self._check_open()
        request = GrantRequest(ref, plan_id, member_id, note, paid_at)
        self._check_generation(request)
        if not self._is_bound:
            await self._bind(record=True)
        return await self._ledger.plan(request)

    @as_coroutine_function
    def provision(
        self, requests: Requests, *, concurrency: int = 8, stop_on: Collection[StopReason] = EVERY_REASON
    ) -> Run:
        """Return a run over requests, an iterable or async iterable of any length; see `Run`.

        The run has a retry budget of its own. It ends early for a reason in `stop_on`: rejected credentials, an empty
        budget, or `max(2 * concurrency, 20)` unknown outcomes in a row. Running it again resumes it.
        """
        self._check_open()
        view = self._session.with_options(own_budget=True)

        async def one(
            request: GrantRequest, may_wait: Callable[[], bool], hand_over: HandOver
        ) -> tuple[Grant, bool] | None:
            try:
                return await self._grant_one(request, view, may_wait, hand_over)
            except RefConflict as conflict:
                row = await self._ledger.get(request.ref)
                if row is None:  # the other request is under way, and its row is not written yet
                    row = transitions.planned(request, transitions.utc_now())
                return transitions.rejected(row, request, conflict), False
            except RefTooLong as error:
                return transitions.unstorable(request, error, transitions.utc_now()), True
            except InvalidValue as refused:  # by `plan_in` or `plan_all`, which do not know the client, it was recorded
                row = await self._ledger.get(request.ref)
                if row is None or row.status is not GrantStatus.PLANNED:
                    raise
                return evolve(row, error=refused), False

        async def look_up(refs: Collection[str]) -> Mapping[str, Grant]:
            return await get_many(self._ledger, refs)

        later = isinstance(self._ledger, SettlesLater)
        return Run(requests, one, look_up, view, concurrency=concurrency, stop_on=stop_on, settles_later=later)

    @as_coroutine_function
    def run_planned(self, *, concurrency: int = 8, stop_on: Collection[StopReason] = EVERY_REASON) -> Run:
        """Return a run over the planned rows: `await` it, iterate over its rows, or make it a background task."""
        return self.provision(planned_requests(self._ledger), concurrency=concurrency, stop_on=stop_on)

    async def _grant_one(
        self,
        request: GrantRequest,
        session: Client,
        may_wait: Callable[[], bool] = lambda: True,
        hand_over: HandOver | None = None,
    ) -> tuple[Grant, bool] | None:
        """Return the row after its exchange, and whether this call started the exchange; None if it was handed over.

        The task of a run, which hands over, carries out the exchange itself.
        """
        self._check_generation(request)
        if not self._is_bound:
            self._check_open()
            await self._bind(record=True)
        while True:
            self._check_open()
            shared = self._running.get(request.ref)
            if shared is not None:
                return await shared.wait_for(request), False
            answer = self._unrecorded.get(request.ref)
            if answer is not None:
                transitions.same(answer.claimed, request)
                return await answer.stored(), False
            shared = Shared(request, self._running, lambda: self._is_open and may_wait(), hand_over)
            self._running[request.ref] = shared
            if hand_over is not None:
                await carry_out(session, self._ledger, self._unrecorded, shared)
                if shared.handed_over:
                    return None
            else:
                await self._exchange(session, shared)
                await shared.wait()
            grant = shared.result()
            if grant.status is not GrantStatus.UNKNOWN or not self._regrant_limit or not await self._send_again(grant):
                return grant, shared.fresh

    async def _exchange(self, session: Client, shared: Shared) -> None:
        exchange = carry_out(session, self._ledger, self._unrecorded, shared)
        if (loop := asyncio_loop()) is not None:
            # A task of its own: a shield does not protect against task.cancel(), wait_for or asyncio.timeout.
            task = loop.create_task(exchange)
            self._tasks[task] = shared
            task.add_done_callback(self._release)
        else:
            with CancelScope(shield=True):
                await exchange

    def _release(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).end()  # one that is cancelled before its first step never reaches its `finally`

    async def _send_again(self, grant: Grant) -> bool:
        """Decide to send an unknown row again; return whether to look at it again, also because it has changed."""
        made = await self._ledger.decisions(grant.ref)
        row = await self._ledger.get(grant.ref)  # read last: what happened to it since the count shows in its attempts
        if row is not None and (row.status, row.attempts) == (grant.status, grant.attempts):
            if sum(decision.reason == _AUTOMATIC for decision in made) >= self._regrant_limit:
                return False
            with suppress(GrantError):  # a person or another worker decided first: the next claim finds the row
                await self._ledger.decide(grant.ref, "retry", None, _AUTOMATIC)
        return True

    async def resolve(
        self, ref: str, decision: Decision, *, token: AccessToken | str | None = None, reason: str = ""
    ) -> Grant:
        """Decide about an unknown or refused row: it was "granted" (with the token, if you have it), "retry" it, or
        "abandon" it, which a planned row can be too: it is not sent any more. The decision is kept with time and
        reason; GrantError if the row's state does not allow it.
        """  # noqa: D205 - the three words are the contract
        self._check_open()
        checked = check_decision(decision)
        if token is not None and checked != "granted":
            msg = "a token goes with the decision 'granted' only"
            raise UsageError(msg)
        if self._unrecorded.get(check_ref(ref)) is not None:
            msg = f"{ref}: its outcome is known, and the ledger is still to record it"
            raise GrantError(msg)
        if ref in self._running and checked != "abandon":  # a grant that is not sent yet may be abandoned
            msg = f"{ref} is being sent right now; decide when its outcome is known"
            raise GrantError(msg)
        found = AccessToken(token=token, raw=token) if isinstance(token, str) else token
        return await self._ledger.decide(ref, checked, found, reason)

    async def reconcile(
        self,
        *,
        concurrency: int = 8,
        on_finding: Callable[[Finding], object] | None = None,
        told: Callable[[Finding], object] | None = None,
    ) -> list[Finding]:
        """Ask the service about the unknown rows, and settle those to granted whose grant is proved.

        `concurrency` members are asked about at once, each one time. `on_finding` is called with each Finding as it is
        made; `told` is its former name. Rows without proof do not change, and are reported with the records found, or
        the failure. Raises Unauthorized if the credentials are rejected.

        A Session asks `getSubscribers` about each member. Proof is a subscription of this member to this plan that
        began after the attempt, with no other row of the ledger that it could belong to: five minutes after it, and
        longer if this machine's clock is behind the service's, as the Date of its replies tells. It cannot prove the
        opposite: an unused token is not visible.

        A Project reads all its payment requests. Proof is the only one of this user and plan, pending or completed,
        that no row of the ledger has and that was created during the attempt or in the five minutes after it. Only a
        service that says when it was created (*assumed*) can prove that, and again nothing proves the opposite.
        """
        self._check_open()
        check_concurrency(concurrency)
        if told is not None:
            warn_renamed("the parameter told of reconcile", "on_finding")
        return await reconcile(self._session, self._ledger, concurrency=concurrency, on_finding=on_finding or told)

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None if the ledger has none."""
        self._check_open()
        return await self._ledger.get(check_ref(ref))

    def grants(
        self,
        status: GrantStatus | str | Collection[GrantStatus | str] | None = None,
        since: datetime | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Grant]:
        """Iterate over rows, of one status or several, changed at `since` (aware) or later, with constant memory.

        The oldest ref comes first. With `after`, begin behind the row of that ref: the last one of the page before.
        Raises GrantError if the ledger has no such row.
        """
        self._check_open()
        wanted = [status] if isinstance(status, str) else status
        try:
            states = None if wanted is None else [GrantStatus(one) for one in wanted]
        except ValueError:
            msg = f"a status is one of {', '.join(GrantStatus)}, not {status!r:.80}"
            raise UsageError(msg) from None
        if since is not None and since.tzinfo is None:
            msg = "since must be an aware datetime: such as datetime.now(UTC) - timedelta(days=1)"
            raise UsageError(msg)
        return self._ledger.grants(states, since, None if after is None else check_ref(after))

    def owed(self, since: datetime | None = None, after: str | None = None) -> AsyncIterator[Grant]:
        """Yield the rows of members who paid and have no link, as `grants` does: all but delivered and abandoned ones.

        A granted row waits for its delivery, a planned one to be sent, an unknown or refused one for a decision.
        """
        return self.grants(OWED, since, after)

    def undelivered(self) -> AsyncIterator[Grant]:
        """Yield the rows that are granted and not marked as delivered: send those links again after a restart."""
        return self.grants(GrantStatus.GRANTED)

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link of a granted row."""
        self._check_open()
        return await self._ledger.mark_delivered(check_ref(ref))

    async def purge(self, *, delivered_before: datetime) -> int:
        """Remove the tokens of rows delivered before then (aware), and return their number; the rows stay."""
        self._check_open()
        if delivered_before.tzinfo is None:
            msg = "delivered_before must be an aware datetime"
            raise UsageError(msg)
        return await self._ledger.purge(delivered_before)

    def _check_generation(self, request: GrantRequest) -> None:
        """Raise InvalidValue for the plan of a bot in a project, or the other way round, before it is recorded."""
        if isinstance(request.plan_id, str) is not self._is_of_project:
            wanted = "a Project takes the UUID" if self._is_of_project else "a Session takes the int"
            msg = f"{wanted} of its plan as plan_id, not {request.plan_id!r}"
            raise InvalidValue(msg)
        if self._is_of_project:
            from tgmembership_async.project.ids import check_user_id  # noqa: PLC0415 - not loaded by users of a Session

            check_user_id("member_id", request.member_id)

    def _check_open(self) -> None:
        if not self._is_open:
            msg = "the Granter is not open: use `async with Granter(session, ledger) as granter:`"
            raise UsageError(msg)
