"""All errors can be pickled with equal fields, also by a process pool."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, not_sent, reply

import tgmembership_async
from tgmembership_async import RetryPolicy, Session, TGMembershipError

STEPS: dict[str, Any] = {
    "not sent": not_sent(),
    "lost": lost(),
    "refused": reply('{"ok": false, "code": 404, "description": "no", "request_id": "r"}'),
    "unexpected": reply("<html>"),
    "limited": reply("", 429, retry_after="3600"),
    "failed": reply('{"ok": false, "code": 500}'),
    "shape": reply('{"ok": true, "code": 200, "result": [1]}'),
    "echo": reply(f'{{"ok": false, "code": 400, "description": "/bot1/{CANARY_KEY}/x"}}'),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, TGMembershipError):
        fields = one.__dict__.keys() == other.__dict__.keys()
        return fields and type(one) is type(other) and all(same(v, other.__dict__[k]) for k, v in one.__dict__.items())
    return bool(one == other)


def call(name: str, method: str) -> None:
    """Make a call that fails, in this process or another one."""

    async def scenario() -> None:
        retry = RetryPolicy(attempts=2, transient_base=0, throttled_base=0)
        async with Session(1, CANARY_KEY, transport=StubTransport(STEPS[name]), retry=retry) as tg:
            await getattr(tg, method)(*((1, 42) if method == "add_member" else ()))

    anyio.run(scenario)


def raised(name: str, method: str) -> TGMembershipError:
    with pytest.raises(TGMembershipError) as error:
        call(name, method)
    return error.value


@pytest.mark.parametrize("method", ["get_plans", "add_member"])
@pytest.mark.parametrize("name", [name for name in STEPS if name != "shape"])
def test_from_a_pickle(name: str, method: str) -> None:
    error = raised(name, method)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(error, protocol)
        assert CANARY_KEY.encode() not in data
        again = pickle.loads(data)
        assert same(error, again)
        assert str(again) == str(error)


def test_from_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for name, method in (("lost", "add_member"), ("limited", "get_plans"), ("shape", "get_plans")):
            with pytest.raises(TGMembershipError) as error:
                pool.submit(call, name, method).result(60)
            here = raised(name, method)
            assert type(error.value) is type(here)
            there, local = vars(error.value), vars(here)
            assert there.keys() - {"__notes__"} == local.keys()
            assert {k: v for k, v in there.items() if k in ("method", "attempts", "maybe_applied", "code", "body")} == {
                k: v for k, v in local.items() if k in ("method", "attempts", "maybe_applied", "code", "body")
            }


def test_of_every_class() -> None:
    classes = [
        value
        for value in vars(tgmembership_async).values()
        if isinstance(value, type) and issubclass(value, TGMembershipError)
    ]
    assert len(classes) > 20
    for kind in classes:
        error = kind("what happened")
        error.add_note("and a note")
        again = pickle.loads(pickle.dumps(error))
        assert same(error, again)
        assert str(again) == "what happened"
