"""The fake's v1: routes, envelope, and the three causes of a 401."""

import json
from typing import Any

import pytest

from tgmembership_async.testing import FakeService, Fault


def ask(service: FakeService, verb: str, path: str, **params: Any) -> tuple[int, dict[str, Any]]:
    target = f"/v1/bot{service.bot_id}/{service.api_key.reveal()}/{path}".encode()
    response = service.handle(verb, target, {"content-type": "application/json"}, json.dumps(params).encode())
    return response.status, json.loads(response.body)


def test_an_access_token_is_created_with_201() -> None:
    service = FakeService()
    status, reply = ask(service, "POST", "members/accessToken", plan_id=1, member_id="42")
    assert (status, reply["ok"], reply["code"], reply["method"]) == (201, True, 201, "POST")
    assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(1, 42)]
    assert reply["request_id"]


def test_the_reply_about_the_bot_contains_the_key() -> None:
    service = FakeService()
    status, reply = ask(service, "GET", "bot")
    assert (status, reply["result"]) == (200, {"bot_id": service.bot_id, "api_key": service.api_key.reveal()})


@pytest.mark.parametrize("member", [None, 42, "x", "0"])
def test_a_member_is_required_as_a_string(member: object) -> None:
    service = FakeService()
    assert ask(service, "POST", "members/accessToken", plan_id=1, member_id=member)[0] == 400
    assert service.audit == []


@pytest.mark.parametrize(
    ("cause", "word"), [("no payment method", "payment"), ("test mode", "test mode"), ("token policy", "policy")]
)
def test_a_401_has_one_of_three_causes(cause: Any, word: str) -> None:
    service = FakeService(token_refusal=cause)
    status, reply = ask(service, "POST", "members/accessToken", plan_id=1, member_id="42")
    assert (status, reply["ok"], service.audit) == (401, False, [])
    assert word in reply["description"]


def test_a_member_who_blocked_the_bot_is_not_found() -> None:
    assert ask(FakeService(silent=[42]), "POST", "members/accessToken", plan_id=1, member_id="42")[0] == 404


def test_v1_has_no_other_methods() -> None:
    assert ask(FakeService(), "GET", "getPlans")[0] == 404
    assert ask(FakeService(), "GET", "members/accessToken")[0] == 405


def test_fault_rules_name_the_path_of_a_method() -> None:
    service = FakeService(faults=[Fault("closed", method="members/accessToken")])
    plan = service.plan_faults("POST", f"/v1/bot{service.bot_id}/k/members/accessToken".encode())
    assert (plan.ending, service.count_requests("members/accessToken")) == ("closed", 1)
