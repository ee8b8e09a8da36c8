"""The tables of a ledger in SQLite, and their migrations. Triggers refuse changes of write-once values."""

from typing import Final

from tgmembership_async.storage.sqlite.binding import binding_table
from tgmembership_async.storage.sqlite.database import Component

_TOKENS: Final = """
    CREATE TABLE token (
        id INTEGER PRIMARY KEY, -- in the order of writing: what is appended moves no other row, and leaves no copies
        body BLOB NOT NULL -- overwritten in place by a purge, and never deleted, for the same reason
    ) STRICT
"""
_GRANTS: Final = """
    CREATE TABLE grants (
        id INTEGER PRIMARY KEY,
        ref TEXT NOT NULL UNIQUE CHECK (ref <> ''),
        plan_id INTEGER NOT NULL CHECK (plan_id > 0),
        member_id INTEGER CHECK (member_id > 0),
        note TEXT NOT NULL,
        status TEXT NOT NULL CHECK (
            status IN ('planned', 'sending', 'granted', 'delivered', 'refused', 'unknown', 'abandoned')
        ),
        attempts INTEGER NOT NULL CHECK (attempts >= (status = 'sending')),
        token_id INTEGER REFERENCES token (id) CHECK (token_id IS NULL OR status IN ('granted', 'delivered')),
        error TEXT CHECK (error IS NULL OR status IN ('planned', 'refused', 'unknown')),
        updated_at INTEGER NOT NULL -- microseconds since 1970, UTC
    ) STRICT
"""
_ATTEMPT: Final = """
    CREATE TABLE attempt (
        grant_id INTEGER NOT NULL REFERENCES grants (id),
        number INTEGER NOT NULL CHECK (number > 0),
        ended INTEGER NOT NULL CHECK (ended IN (0, 1)), -- one row when it begins, and one when it ends
        at INTEGER CHECK (at IS NOT NULL OR ended), -- NULL: nobody saw its end
        status TEXT NOT NULL CHECK (
            CASE ended WHEN 0 THEN status = 'sending' ELSE status IN ('planned', 'granted', 'refused', 'unknown') END
        ),
        evidence TEXT NOT NULL,
        PRIMARY KEY (grant_id, number, ended)
    ) STRICT, WITHOUT ROWID
"""
_DECISION: Final = """
    CREATE TABLE decision (
        id INTEGER PRIMARY KEY,
        grant_id INTEGER NOT NULL REFERENCES grants (id),
        decision TEXT NOT NULL CHECK (decision IN ('granted', 'retry', 'abandon')),
        decided_at INTEGER NOT NULL,
        reason TEXT NOT NULL
    ) STRICT
"""
_FOLLOW_UP: Final = """
    CREATE TABLE follow_up (
        grant_id INTEGER PRIMARY KEY REFERENCES grants (id),
        about TEXT NOT NULL CHECK (about IN ('planned', 'granted', 'refused', 'unknown')),
        failures INTEGER NOT NULL CHECK (failures >= 0),
        due_at INTEGER NOT NULL -- microseconds since 1970, UTC
    ) STRICT
"""
# Older versions treated a 503 of a gateway with a wait as proof that nothing was done.
_DOUBT_A_GATEWAYS_503: Final = """
    UPDATE grants SET status = 'unknown'
    WHERE status = 'planned' AND error LIKE '%the service turned us away with HTTP 503%'
"""
_FIND_WHEN_GRANTED: Final = """
    UPDATE grants SET granted_at = (
        SELECT min(at) FROM (
            SELECT at FROM attempt WHERE grant_id = grants.id AND ended AND status = 'granted'
            UNION ALL SELECT decided_at FROM decision WHERE grant_id = grants.id AND decision = 'granted'
        )
    ) WHERE status IN ('granted', 'delivered')
"""
# A plan of API v2 is a UUID, and a column keeps its type, so this one is made anew. ANY stores both int and text.
_PLANS_OF_ANY_API: Final = (
    """
    ALTER TABLE grants ADD COLUMN plan ANY NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000' CHECK (
        CASE typeof(plan)
            WHEN 'integer' THEN plan > 0
            WHEN 'text' THEN plan LIKE '________-____-____-____-____________'
            ELSE 0
        END
    )
    """,
    "UPDATE grants SET plan = plan_id",
    "ALTER TABLE grants DROP COLUMN plan_id",
    "ALTER TABLE grants RENAME COLUMN plan TO plan_id",
)


def _forbidden(what: str, table: str, why: str) -> str:
    return f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, '{why}'); END"


LEDGER: Final = Component(
    "ledger",
    (
        (
            _TOKENS,
            _GRANTS,
            _ATTEMPT,
            _DECISION,
            "CREATE INDEX decision_about ON decision (grant_id)",
            _forbidden("DELETE", "grants", "a ref never disappears"),
            _forbidden("UPDATE", "attempt", "what was sent stays sent"),
            _forbidden("DELETE", "attempt", "what was sent stays sent"),
            _forbidden("UPDATE", "decision", "a decision stays as it was made"),
            _forbidden("DELETE", "decision", "a decision stays as it was made"),
        ),
        (_DOUBT_A_GATEWAYS_503,),
        (_FOLLOW_UP,),
        (binding_table("ledger"),),
        ("ALTER TABLE grants ADD COLUMN granted_at INTEGER", _FIND_WHEN_GRANTED),
        _PLANS_OF_ANY_API,
    ),
)
