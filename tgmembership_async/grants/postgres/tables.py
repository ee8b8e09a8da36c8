"""The tables of a ledger in PostgreSQL, and their migrations. Triggers refuse changes of write-once values."""

from typing import Final

from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.binding import binding_table

_GRANTS: Final = """
    CREATE TABLE tgm_grants (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        ref text COLLATE "C" NOT NULL UNIQUE CHECK (ref <> ''),
        plan_id bigint NOT NULL CHECK (plan_id > 0),
        member_id bigint CHECK (member_id > 0),
        note text NOT NULL,
        status text NOT NULL CHECK (
            status IN ('planned', 'sending', 'granted', 'delivered', 'refused', 'unknown', 'abandoned')
        ),
        attempts integer NOT NULL CHECK (attempts >= 0 AND (attempts > 0 OR status <> 'sending')),
        token text CHECK (token IS NULL OR status IN ('granted', 'delivered')),
        error text CHECK (error IS NULL OR status IN ('planned', 'refused', 'unknown')),
        updated_at timestamptz NOT NULL,
        worker integer CHECK (worker IS NOT NULL OR status <> 'sending'), -- who sent it last
        claim bigint -- and by which of that worker's claims
    ) WITH (fillfactor = 90)
"""
# The index holds only rows that may still change, so it stays small.
_OPEN: Final = """
    CREATE INDEX tgm_grants_open ON tgm_grants (status, id)
    WHERE status IN ('planned', 'sending', 'granted', 'refused', 'unknown')
"""
_ATTEMPT: Final = """
    CREATE TABLE tgm_attempt (
        grant_id bigint NOT NULL REFERENCES tgm_grants (id),
        number integer NOT NULL CHECK (number > 0),
        began_at timestamptz NOT NULL,
        ended_at timestamptz, -- NULL: it has not ended, or nobody saw its end
        status text CHECK (status IN ('planned', 'granted', 'refused', 'unknown')), -- NULL: it has not ended
        evidence text NOT NULL DEFAULT '',
        PRIMARY KEY (grant_id, number)
    )
"""
_DECISION: Final = """
    CREATE TABLE tgm_decision (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        grant_id bigint NOT NULL REFERENCES tgm_grants (id),
        decision text NOT NULL CHECK (decision IN ('granted', 'retry', 'abandon')),
        decided_at timestamptz NOT NULL,
        reason text NOT NULL
    )
"""
_FORBID: Final = """
    CREATE FUNCTION tgm_forbid() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$
"""
_FOLLOW_UP: Final = """
    CREATE TABLE tgm_follow_up (
        grant_id bigint PRIMARY KEY REFERENCES tgm_grants (id),
        about text NOT NULL CHECK (about IN ('planned', 'granted', 'refused', 'unknown')),
        failures integer NOT NULL CHECK (failures >= 0),
        due_at timestamptz NOT NULL,
        worker integer, -- who has leased it
        lease bigint NOT NULL DEFAULT 0, -- one more for each lease: a fencing number
        leased_until timestamptz
    )
"""
# Older versions treated a 503 of a gateway with a wait as proof that nothing was done.
_DOUBT_A_GATEWAYS_503: Final = """
    UPDATE tgm_grants SET status = 'unknown'
    WHERE status = 'planned' AND error LIKE '%the service turned us away with HTTP 503%'
"""
_FIND_WHEN_GRANTED: Final = """
    UPDATE tgm_grants SET granted_at = least(
        (SELECT min(ended_at) FROM tgm_attempt AS a WHERE grant_id = tgm_grants.id AND a.status = 'granted'),
        (SELECT min(decided_at) FROM tgm_decision WHERE grant_id = tgm_grants.id AND decision = 'granted')
    ) WHERE status IN ('granted', 'delivered')
"""
# A plan of API v2 is a UUID. A column of its own leaves the rows as they are, and workers of an older version running.
_PLANS_OF_PROJECTS: Final = (
    "ALTER TABLE tgm_grants ALTER COLUMN plan_id DROP NOT NULL",
    "ALTER TABLE tgm_grants ADD COLUMN plan_uuid text CHECK (plan_uuid LIKE '________-____-____-____-____________')",
    "ALTER TABLE tgm_grants ADD CONSTRAINT tgm_grants_one_plan CHECK (num_nonnulls(plan_id, plan_uuid) = 1)",
)


def _forbidden(what: str, table: str, why: str, when: str = "") -> str:
    return (
        f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} FOR EACH ROW {when}"
        f" EXECUTE FUNCTION tgm_forbid('{why}')"
    )


LEDGER: Final = Component(
    "ledger",
    (
        (
            _GRANTS,
            _OPEN,
            _ATTEMPT,
            _DECISION,
            "CREATE INDEX tgm_decision_about ON tgm_decision (grant_id)",
            _FORBID,
            _forbidden("DELETE", "tgm_grants", "a ref never disappears"),
            _forbidden("UPDATE", "tgm_attempt", "what was sent stays sent", "WHEN (OLD.status IS NOT NULL)"),
            _forbidden("DELETE", "tgm_attempt", "what was sent stays sent"),
            _forbidden("UPDATE", "tgm_decision", "a decision stays as it was made"),
            _forbidden("DELETE", "tgm_decision", "a decision stays as it was made"),
        ),
        (_DOUBT_A_GATEWAYS_503,),
        (_FOLLOW_UP,),
        (
            # The end of an attempt is recorded when a worker that was presumed to have ended returns with the answer.
            "DROP TRIGGER tgm_attempt_no_update ON tgm_attempt",
            _forbidden("UPDATE", "tgm_attempt", "what was sent stays sent", "WHEN (OLD.ended_at IS NOT NULL)"),
        ),
        (binding_table("ledger"),),
        ("ALTER TABLE tgm_grants ADD COLUMN granted_at timestamptz", _FIND_WHEN_GRANTED),
        _PLANS_OF_PROJECTS,
    ),
)
