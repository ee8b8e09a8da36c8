"""The fake of API v2: routes, paging, absolute changes, rate limits, contradictory samples, faults and webhooks."""

import json
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
import pytest

from tgmembership_async.testing import Courier, FakeProject, Fault, Postal, serve
from tgmembership_async.webhooks import Verifier

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def ask(
    project: FakeProject, verb: str, path: str, token: str | None = None, **params: Any
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return status, headers and body of a call."""
    query = f"?{urlencode(params)}" if verb in ("GET", "DELETE") and params else ""
    headers = {"authorization": f"Bearer {project.token.reveal() if token is None else token}"}
    body = b"" if query else json.dumps(params).encode()
    reply = project.handle(verb, f"/v2/projects/{project.project_id}/{path}{query}".encode(), headers, body)
    return reply.status, dict(reply.headers), json.loads(reply.body or b"null")


class Time:
    """A clock that the test advances."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_a_wrong_token_is_refused() -> None:
    status, _, reply = ask(FakeProject(), "GET", "plans", token="wrong")
    assert (status, reply["ok"], reply["error"]["error_code"], reply["data"]) == (401, False, "UNAUTHORIZED", [])


def test_lists_come_in_pages_with_a_total() -> None:
    project = FakeProject(users=range(1, 26))
    _, _, first = ask(project, "GET", "users")
    _, _, last = ask(project, "GET", "users", limit=10, offset=20)
    assert [len(page["data"]) for page in (first, last)] == [10, 5]
    assert [(page["total"], page["limit"], page["offset"]) for page in (first, last)] == [(25, 10, 0), (25, 10, 20)]


def test_extend_sets_the_end_of_all_memberships_of_one_user_and_one_segment_less_of_all_users() -> None:
    project = FakeProject(clock=lambda: NOW)
    for user in (42, 42, 43):
        project.pay(user)
    until = "2027-05-01T00:00:00.000Z"
    assert ask(project, "PATCH", "memberships/42/extend", extend=until)[2]["data"] == {"updated": 2}
    assert [one.row()["membership_end_date"] == until for one in project.memberships] == [True, True, False]
    milliseconds = int(datetime(2027, 6, 1, tzinfo=UTC).timestamp() * 1000)
    assert ask(project, "PATCH", "memberships/extend", extend=milliseconds)[2]["data"] == {"updated": 3}
    assert [effect.user_id for effect in project.audit if effect.what == "extend"] == ["42", None]
    assert ask(project, "PATCH", "memberships/42/extend", extend="2020-01-01T00:00:00Z")[0] == 422


def test_a_membership_is_removed_once() -> None:
    project = FakeProject()
    project.pay(42)
    path = f"memberships/{project.memberships[0].membership_id}"
    assert [ask(project, "DELETE", path)[0] for _ in range(2)] == [204, 404]
    assert project.memberships == []


def test_a_balance_is_set_absolutely() -> None:
    project = FakeProject(users=[42])
    project.top_up(42, "5.00")
    change = ask(project, "POST", "balance/adjust", user_id="42", new_balance="10.00")[2]["data"]
    assert {name: change[name] for name in ("previous_balance", "new_balance", "adjustment")} == {
        "previous_balance": "5.00",
        "new_balance": "10.00",
        "adjustment": "5.00",
    }
    assert ask(project, "GET", "balance", user_id="42")[2]["data"]["balance"] == "10.00"


def test_a_user_is_banned_until_unbanned() -> None:
    project = FakeProject()
    assert [ask(project, verb, "ban/42")[0] for verb in ("PUT", "PUT", "DELETE", "DELETE")] == [200, 200, 200, 404]


def test_a_payment_request_is_pending_until_the_user_pays() -> None:
    project = FakeProject()
    plan = project.plans[0].plan_id
    status, _, reply = ask(project, "POST", "payment-requests", user_id="42", plan_id=plan)
    assert (status, reply["data"]["status"], project.memberships) == (201, "pending", [])
    number = reply["data"]["payment_request_id"]
    project.complete(number)
    assert ask(project, "GET", f"payment-requests/{number}")[2]["data"]["status"] == "completed"
    assert [one.payment_request_id for one in project.memberships] == [number]


@pytest.mark.parametrize(
    ("verb", "path", "params", "status"),
    [
        ("GET", "users/search", {"search": "ab"}, 422),
        ("GET", "users/7", {}, 404),
        ("GET", "memberships", {"user_id": "x"}, 422),
        ("POST", "payment-requests", {"user_id": "42", "plan_id": "no"}, 404),
        ("POST", "payment-requests", {"user_id": 42, "plan_id": "no"}, 422),
        ("POST", "balance/adjust", {"user_id": "42", "new_balance": "1.001"}, 422),
        ("POST", "integrations/webhooks", {"url": "http://shop.example/"}, 422),
        ("GET", "nothing", {}, 404),
    ],
)
def test_wrong_calls_are_refused_without_an_effect(verb: str, path: str, params: Any, status: int) -> None:
    project = FakeProject()
    assert ask(project, verb, path, **params)[0] == status
    assert project.audit == []


def test_the_rate_limit_is_announced_and_then_refuses() -> None:
    time = Time()
    project = FakeProject(per_minute=3, burst=None, clock=time)
    left = [ask(project, "GET", "plans")[1]["x-ratelimit-remaining"] for _ in range(3)]
    status, headers, reply = ask(project, "GET", "plans")
    assert (left, status, float(headers["retry-after"])) == (["2", "1", "0"], 429, 60.0)
    assert (reply["error"]["error_code"], reply["error"]["retry_after"]) == ("RATE_LIMIT_EXCEEDED", 60.0)
    time.now += timedelta(seconds=60)
    assert ask(project, "GET", "plans")[0] == 200


def test_a_burst_is_refused_for_less_than_a_second() -> None:
    time = Time()
    project = FakeProject(per_minute=None, burst=2, clock=time)
    assert [ask(project, "GET", "plans")[0] for _ in range(3)] == [200, 200, 429]
    time.now += timedelta(seconds=0.5)
    _, headers, _ = ask(project, "GET", "plans")
    assert float(headers["retry-after"]) == 0.5
    assert 0 < int(headers["x-ratelimit-reset"]) - time.now.timestamp() <= 2
    time.now += timedelta(seconds=0.5)
    assert ask(project, "GET", "plans")[0] == 200


def test_contradictory_samples_are_followed_on_request() -> None:
    project = FakeProject(samples=["no ok", "error.code"])
    assert "ok" not in ask(project, "GET", "plans")[2]
    assert ask(project, "GET", "users/7")[2]["error"]["code"] == "NOT_FOUND"


def test_faults_apply_to_routes_by_their_path_and_are_written_as_v2_writes_errors() -> None:
    project = FakeProject(faults=[Fault("error", method="ban/{user_id}", count=1)])
    plan = project.plan_faults("PUT", f"/v2/projects/{project.project_id}/ban/42".encode())
    reply = plan.disguised(project.handle("GET", b"/"))
    assert (plan.effect, reply.status) == (False, 500)
    assert json.loads(reply.body)["error"]["error_code"] == "INTERNAL_SERVER_ERROR"
    assert project.count_requests("ban/{user_id}") == 1


def test_it_is_served_over_http() -> None:
    with serve(FakeProject()) as server:
        options = server.session_options()
        assert options["base_url"] == server.url
        environment = server.env()
        assert environment["TGMEMBERSHIP_PROJECT_BASE_URL"] == server.url
        connection = HTTPConnection("127.0.0.1", urlsplit(server.url).port or 0)
        headers = {"Authorization": f"Bearer {environment['TGMEMBERSHIP_PROJECT_TOKEN']}"}
        connection.request("GET", f"/v2/projects/{environment['TGMEMBERSHIP_PROJECT_ID']}/plans", headers=headers)
        assert json.loads(connection.getresponse().read())["total"] == 2
        connection.close()


def post_to(statuses: list[int], seen: list[tuple[dict[str, str], bytes]]) -> Any:
    """Return a post function that answers with these statuses, and records what came."""

    async def post(_: str, headers: Any, body: bytes) -> int:
        seen.append((dict(headers), body))
        return statuses[min(len(seen), len(statuses)) - 1]

    return post


@pytest.mark.parametrize(("statuses", "times"), [([204], 1), ([401, 200], 1), ([500, 404, 200], 3)])
def test_deliveries_are_signed_repeated_and_dropped_for_good(statuses: list[int], times: int) -> None:
    project = FakeProject()
    secret = ask(project, "POST", "integrations/webhooks", url="https://shop.example/hook")[2]["data"]["secret"]
    payment = project.pay(42)
    seen: list[tuple[dict[str, str], bytes]] = []
    anyio.run(Courier(project, Postal(pause=0), post=post_to(statuses, seen)).deliver)
    assert len(seen) == times
    assert len({body for _, body in seen}) == 1
    headers, body = seen[0]
    assert Verifier(secret).verify(headers, body).body == body
    assert headers["X-Project-ID"] == project.project_id
    event = json.loads(body)
    assert (event["event"], event["data"]["payment_request_id"]) == ("payment-request.completed", payment)
    assert "user_id" not in event["data"]
