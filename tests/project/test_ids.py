"""No id reaches the wire unless it is one: `/memberships/extend` is one path segment away from the whole project."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from project.projects import PLAN, project, says
from stub_transport import StubTransport

from tgmembership_async import UsageError

UNTIL = datetime(2199, 1, 1, tzinfo=UTC)
ANYTHING = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[0-9a-f./%\-]{0,40}", fullmatch=True),
    st.integers(),
    st.none(),
    st.booleans(),
    st.uuids().map(str),
    st.sampled_from(["", ".", "..", "extend", "/", "%2e", "42/..", "42/../extend", "0", "00", "42\n", PLAN]),
    st.sampled_from(["\u0664\u0662", "\uff14\uff12", "4_2", " 42", "+42", "4" * 19]),
)
CALLS: list[Any] = [
    lambda p, value: p.extend_member(value, UNTIL),
    lambda p, value: p.ban(value),
    lambda p, value: p.unban(value),
    lambda p, value: p.user(value),
    lambda p, value: p.remove_membership(value),
    lambda p, value: p.payment_request(value),
    lambda p, value: p.request("PATCH", value, {"extend": 1}),
    lambda p, value: p.request("PATCH", f"memberships/{value}/extend", {"extend": 1}),
]


@given(ANYTHING, st.sampled_from(range(len(CALLS))))
@example("", 0)
@example("", 7)
@example("memberships/extend", 6)
@example("memberships/./extend", 6)
@example("memberships//extend", 6)
@example("/MEMBERSHIPS/EXTEND", 6)
def test_only_extend_everybody_reaches_the_whole_project(value: Any, number: int) -> None:
    stub = StubTransport(says({"user_id": 1, "id": "x"}))

    async def scenario() -> None:
        async with project(stub) as client:
            try:
                await CALLS[number](client, value)
            except UsageError:
                assert stub.requests == []

    asyncio.run(scenario())
    for request in stub.requests:
        segments = bytes(request.encode()[0]).partition(b"?")[0].split(b"/")[4:]
        assert all(segments), "no segment is empty"
        assert not {b".", b".."} & set(segments)
        assert [segment.lower() for segment in segments] != [b"memberships", b"extend"]
        assert number in {6, 7} or len(segments) in {2, 3}
