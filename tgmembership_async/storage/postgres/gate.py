"""A shared gate in PostgreSQL: one request rate and one pause for all workers of a bot."""

import logging
import time
from datetime import UTC, datetime
from typing import Final, Self

from anyio import move_on_after
from attrs import frozen

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.protocol.gate import GateReply, RateLimit
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.database import Job, PostgresStorage, T
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.values.secret import Secret, hides_arguments

_TAKES_AT_MOST: Final = 2.0
_PATIENCE: Final = 0.1  # enough to replace a stale lane, not to wait for an unreachable server
_TRIES_AGAIN_AFTER: Final = 5.0
_logger: Final = logging.getLogger("tgmembership_async.storage")

GATE: Final = Component(
    "gate",
    (
        (
            """
            CREATE TABLE tgm_gate (
                bot_id bigint PRIMARY KEY,
                arrival timestamptz NOT NULL DEFAULT 'epoch', -- of the next request in a steady stream
                paused_until timestamptz NOT NULL DEFAULT 'epoch'
            ) WITH (fillfactor = 50)
            """,
        ),
        # Older versions stored every pause that a response named, even one of centuries.
        ("UPDATE tgm_gate SET paused_until = least(paused_until, clock_timestamp() + interval '1 hour')",),
    ),
)
# Only the server's clock counts. It is read once the row is locked, so after the changes of all other workers.
_ASK: Final = """
    SELECT extract(epoch FROM paused_until - clock_timestamp())::float8, 0.0::float8 FROM tgm_gate WHERE bot_id = %s
"""
_COUNT: Final = """
    UPDATE tgm_gate SET arrival = CASE
        WHEN paused_until > clock_timestamp() THEN arrival
        ELSE greatest(arrival, clock_timestamp()) + make_interval(secs => %s)
    END
    WHERE bot_id = %s AND set_config('synchronous_commit', 'off', true) = 'off' -- a crash may lose the last counts
    RETURNING extract(epoch FROM paused_until - clock_timestamp())::float8,
        extract(epoch FROM arrival - clock_timestamp())::float8 - %s
"""
_FIRST: Final = "INSERT INTO tgm_gate (bot_id) VALUES (%s) ON CONFLICT DO NOTHING"
_PAUSE: Final = """
    INSERT INTO tgm_gate AS row (bot_id, paused_until) VALUES (%s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (bot_id) DO UPDATE SET paused_until = greatest(row.paused_until, excluded.paused_until)
"""
_PAUSES: Final = """
    SELECT bot_id, paused_until, extract(epoch FROM paused_until - clock_timestamp())::float8 FROM tgm_gate
    WHERE paused_until > clock_timestamp() ORDER BY bot_id
"""
_LIFT: Final = """
    UPDATE tgm_gate SET paused_until = 'epoch'
    WHERE paused_until > clock_timestamp() AND bot_id = coalesce(%s::bigint, bot_id)
"""


@frozen
class Pause:
    """A pause that all workers of a bot observe: until when (aware UTC), and for how many seconds from now."""

    bot_id: int
    until: datetime
    seconds: float


class PostgresGate(AsyncResource):
    """A SharedGate in the database that `conninfo` names: `Session(..., rate_limit=..., gate=PostgresGate(conninfo))`.

    Each attempt at a call asks the gate once, which adds one round trip. All workers of a bot pass the same
    `rate_limit` to their Sessions and share that rate. A pause that the service asks of one worker
    applies to all. The Session opens and closes the gate.

    Calls do not depend on the database. If it does not answer within two seconds, each Session uses its own gate with
    the whole of its own rate, logs one WARNING, and asks again every five seconds. Only `open` raises, as
    `PostgresLedger.open` does.
    """

    @hides_arguments
    def __init__(self, conninfo: str | Secret) -> None:
        self._storage = PostgresStorage(conninfo, (GATE,))
        self._out_until = float("-inf")
        self._is_out = False

    def _shown(self) -> str:
        return f"<PostgresGate at {self._storage.server}, {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._storage.is_open

    async def open(self) -> Self:
        """Connect, and create the table if it is missing."""
        await self._storage.open(_nothing)
        return self

    async def aclose(self) -> None:
        """Disconnect."""
        await self._storage.aclose()

    async def ask(self, bot_id: int, limit: RateLimit | None) -> GateReply | None:
        """Count a request, which is sent after the returned wait; during a pause or without `limit`, count nothing."""

        def ask(lane: Lane) -> GateReply:
            if limit is None:
                row = lane.execute(_ASK, (bot_id,)).fetchone()
                return GateReply() if row is None else GateReply(max(0.0, row[0]))
            values = (limit.interval, bot_id, limit.interval + limit.burst)
            row = lane.execute(_COUNT, values).fetchone()
            while row is None:
                lane.execute(_FIRST, (bot_id,))
                row = lane.execute(_COUNT, values).fetchone()
            pause, wait = row
            return GateReply(pause=pause) if pause > 0 else GateReply(wait=max(0.0, wait))

        return await self._quickly(ask)

    async def pause(self, bot_id: int, seconds: float) -> None:
        """Let no request through for `seconds`; a pause that ends later stays."""

        def pause(lane: Lane) -> None:
            lane.execute(_PAUSE, (bot_id, seconds))

        await self._quickly(pause)

    async def pauses(self) -> list[Pause]:
        """Return the pauses in force, by bot. Raises StorageError if the database does not answer."""
        rows = await self._storage.run(lambda lane: lane.execute(_PAUSES).fetchall())
        return [Pause(bot_id, until.astimezone(UTC), seconds) for bot_id, until, seconds in rows]

    async def lift(self, bot_id: int | None = None) -> None:
        """End the pause of a bot, or of all bots. A running worker keeps a pause it has seen, up to `pause_cap`."""

        def lift(lane: Lane) -> None:
            lane.execute(_LIFT, (bot_id,))

        await self._storage.run(lift)

    async def _quickly(self, job: Job[T]) -> T | None:
        """Return the job's result, or None if the database does not answer, or did not answer a moment ago."""
        if time.monotonic() < self._out_until:
            return None
        why = f"no answer within {_TAKES_AT_MOST:g} s"
        with move_on_after(_TAKES_AT_MOST):
            try:
                result = await self._storage.run(job, patience=_PATIENCE, abandon=True)
            except TGMembershipError as error:
                why = str(error)
            else:
                self._note(None)
                return result
        self._note(why)
        return None

    def _note(self, trouble: str | None) -> None:
        """Remember whether the database answers, and log when that changes."""
        was_out, self._is_out = self._is_out, trouble is not None
        if trouble is not None:
            self._out_until = time.monotonic() + _TRIES_AGAIN_AFTER
        if trouble is not None and not was_out:
            _logger.warning("the shared gate is unreachable, and calls use this process's own gate: %s", trouble)
        elif was_out and not self._is_out:
            _logger.info("the shared gate at %s answers again", self._storage.server)


def _nothing(_: Lane) -> None:
    return None
