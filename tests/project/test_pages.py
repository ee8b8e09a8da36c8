"""Reading a list page by page: each row once, whatever the list does meanwhile."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project.projects import OTHER, PLAN, project, row, says
from stub_transport import StubTransport

from tgmembership_async import Request, Response, UsageError
from tgmembership_async.project.pages import Page, all_rows


def serving(rows: list[Any], size: int = 2, **more: Any) -> Any:
    async def step(request: Request) -> Response:
        offset = int(request.params.get("offset", 0))
        return says(rows[offset : offset + size], total=len(rows), **more)

    return step


def test_all_pages_come_in_order_and_once(run: Any) -> None:
    stub = StubTransport(serving([row(number) for number in range(5)]))

    async def scenario() -> None:
        async with project(stub) as client:
            found = [one.user_id async for one in client.memberships()]
            assert found == [4200, 4201, 4202, 4203, 4204]

    run(scenario)
    assert [request.params for request in stub.requests] == [{"limit": 50, "offset": n} for n in (0, 2, 4)]


def test_a_plan_is_chosen_here(run: Any) -> None:
    stub = StubTransport(serving([row(1), row(2, plan_id=OTHER.upper()), row(3, plan_id=None)]))

    async def scenario() -> None:
        async with project(stub) as client:
            assert [one.user_id async for one in client.memberships(plan_id=OTHER)] == [4202]
            assert [one.user_id async for one in client.memberships("7", plan_id=PLAN)] == [4201]
            with pytest.raises(UsageError):
                [one async for one in client.memberships(plan_id="")]

    run(scenario)
    assert stub.requests[-1].params["user_id"] == "7"


def test_lists_without_documented_paging_are_asked_for_as_documented(run: Any) -> None:
    stub = StubTransport(serving([{"user_id": str(number)} for number in range(1, 4)]))

    async def scenario() -> None:
        async with project(stub) as client:
            assert [one.user_id async for one in client.banned()] == [1, 2, 3]

    run(scenario)
    assert [request.params for request in stub.requests] == [{}, {"offset": 2}]


def test_a_list_that_shrinks_is_read_again(run: Any) -> None:
    rows = list(range(6))

    async def fetch(offset: int) -> Page[int]:
        page = Page(rows[offset : offset + 2], len(rows))
        if offset == 2 and 0 in rows:
            rows.remove(0)  # the others move up by one
        return page

    async def scenario() -> None:
        assert sorted([one async for one in all_rows("x", fetch, lambda one: one)]) == [0, 1, 2, 3, 4, 5]

    run(scenario)


def test_rows_that_never_come_are_told(caplog: pytest.LogCaptureFixture, run: Any) -> None:
    async def fetch(offset: int) -> Page[int]:
        return Page([1, 2][offset:], 5)

    async def scenario() -> None:
        with caplog.at_level(logging.WARNING, "tgmembership_async"):
            assert [one async for one in all_rows("memberships", fetch, lambda one: one)] == [1, 2]

    run(scenario)
    assert "2 of 5 rows came" in caplog.text


@pytest.mark.parametrize("total", [None, 3, 10**9])
def test_a_service_that_ignores_the_offset_is_not_asked_for_ever(total: int | None, run: Any) -> None:
    asked: list[int] = []

    async def fetch(offset: int) -> Page[int]:
        asked.append(offset)
        return Page([1, 2, 2], total)

    async def scenario() -> None:
        assert [one async for one in all_rows("x", fetch, lambda one: one)] == [1, 2]

    run(scenario)
    assert len(asked) <= 6


@given(st.lists(st.integers(0, 8), max_size=12), st.integers(1, 4), st.lists(st.integers(0, 8), max_size=6))
def test_no_row_is_told_twice_and_none_that_stayed_is_missing(start: list[int], size: int, removals: list[int]) -> None:
    import asyncio  # noqa: PLC0415

    rows, left = list(dict.fromkeys(start)), list(removals)
    stayed = set(rows) - set(removals)

    async def fetch(offset: int) -> Page[int]:
        page = Page(rows[offset : offset + size], len(rows))
        if left and (gone := left.pop()) in rows:
            rows.remove(gone)
        return page

    async def collect() -> list[int]:
        return [one async for one in all_rows("x", fetch, lambda one: one)]

    found = asyncio.run(collect())
    assert len(found) == len(set(found))
    if len(removals) < 2:
        assert set(found) >= stayed
