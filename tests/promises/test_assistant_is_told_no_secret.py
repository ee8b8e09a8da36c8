"""No answer of `tgmembership mcp`, and no line of its log, has the API key, a link, a token or a customer's name."""

from itertools import cycle
from pathlib import Path
from typing import Any

from assistant import assistant, owned_ledger
from canary import CANARY_KEY, CANARY_SECRET
from scripted_server import answering

from tgmembership_async import BadRequest, OutcomeUnknown
from tgmembership_async.grants import GrantRequest
from tgmembership_async.grants.model import GrantStatus, Settlement
from tgmembership_async.values.models import AccessToken

LINK = f"https://t.me/shop?start={CANARY_SECRET}"
NAME = "Ada-Lovelace"
ROWS = {
    GrantRequest("code", 1, 41, NAME): Settlement(GrantStatus.GRANTED, AccessToken(CANARY_SECRET, raw=CANARY_SECRET)),
    GrantRequest("link", 1, 42, LINK): Settlement(GrantStatus.GRANTED, AccessToken(link=LINK), evidence=LINK),
    GrantRequest("delivered", 1, 43): Settlement(GrantStatus.GRANTED, AccessToken(CANARY_SECRET, LINK, {"name": NAME})),
    GrantRequest("refused", 1, 44): Settlement(GrantStatus.REFUSED, error=BadRequest(f"{LINK} is used", code=400)),
    GrantRequest("unknown", 1, 45, NAME): Settlement(GrantStatus.UNKNOWN, error=OutcomeUnknown(f"lost: {LINK}")),
}
ROW = {"user_id": 42, "plan_id": 1, "user_name": NAME, "first_name": NAME, "link": LINK}
REPLIES = [
    answering(200, {"ok": True, "code": 200, "result": [ROW]}),
    answering(404, {"ok": False, "code": 404, "description": f"/bot1/{CANARY_KEY}/ has no {LINK}"}),
    answering(502, f"<html>/bot1/{CANARY_KEY}/getPlans".encode()),
]


def test_no_answer_has_a_secret(tmp_path: Path, serve: Any) -> None:
    replies = cycle(REPLIES)

    def script(connection: Any) -> None:
        next(replies)(connection)

    server = serve(script)
    bot = {"TGMEMBERSHIP_BOT_ID": "1", "TGMEMBERSHIP_API_KEY": CANARY_KEY, "TGMEMBERSHIP_BASE_URL": server.url}
    ledger = tmp_path / "grants.db"
    with (
        owned_ledger(ledger, ROWS),
        assistant(tmp_path, bot, "mcp", "--ledger", str(ledger), "--allow-decisions") as client,
    ):
        calls: list[tuple[str, dict[str, Any]]] = [
            *((name, {}) for name in ("plans", "subscribers", "sales", "doctor") * 3),
            *(("access", {"user_id": 42}),) * 3,
            *((name, {}) for name in ("held_grants", "owed_grants")),
            *(("grant_history", {"ref": request.ref}) for request in ROWS),
            ("resolve", {"ref": "unknown", "decision": "granted", "reason": f"the customer has {LINK}"}),
            ("resolve", {"ref": "code", "decision": "retry", "reason": LINK}),
            ("grant_history", {"ref": "unknown"}),
        ]
        results = [client.call(name, **arguments) for name, arguments in calls]
        assert {result.is_error for result in results} == {True, False}, "some calls failed"
        told = [result.model_dump_json() for result in results]
        told += [client.instructions, *map(client.read, client.resources())]
        told += [repr(tool) for tool in client.tools().values()]
    told.append(client.log.read_text(encoding="utf-8"))
    assert "resolve {'ref': 'unknown'" in told[-1]
    found = [secret in text for text in told for secret in (CANARY_KEY, CANARY_SECRET, NAME)]
    assert found.count(True) == 0
