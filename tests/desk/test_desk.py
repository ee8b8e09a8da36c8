"""The desk on a real server: what its pages show, what a decision does, and what is refused."""

import logging
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from canary import CANARY_KEY
from desk_server import HOSTILE, LINK, TOKEN, Desk, bury, desk, fill, hold
from no_tls import NO_TLS

from tgmembership_async.desk import Guard, desk_app
from tgmembership_async.desk.guard import HEADERS
from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.grants import GrantStatus, MemoryLedger
from tgmembership_async.grants.bot_ledger import BotLedger
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import EntryStatus

REASON = "seen in the chat"


@pytest.fixture
async def at(quick_path: Path) -> AsyncIterator[Desk]:
    async with desk(quick_path) as opened:
        await fill(opened.ledger)
        yield opened


def refs(page: str) -> list[str]:
    return re.findall(r"/grant\?ref=(\w+)\"", page)


class TestPages:
    """What is shown."""

    async def test_each_list_shows_its_rows_and_the_tabs_their_number(self, at: Desk) -> None:
        assert refs(await at.page("/desk/held")) == ["pi_unknown", "pi_refused"]
        assert refs(await at.page("/desk/owed")) == ["pi_unknown", "pi_refused", "pi_granted", "pi_planned"]
        page = await at.page("/desk/undelivered")
        assert refs(page) == ["pi_granted"]
        assert re.findall(r">([\w ]+) <b>(\d+)</b>", page) == [
            ("Held", "2"),
            ("Owed", "4"),
            ("Undelivered", "1"),
            ("Dead letters", "0"),
        ]

    async def test_a_list_of_many_rows_has_pages(self, at: Desk) -> None:
        for number in range(120):
            await hold(at.ledger, f"many_{number:03}")
        seen, path = [], "/desk/held"
        while path:
            page = await at.page(path)
            seen += refs(page)
            found = re.search(r'rel="next" href="(\?.*?)"', page)
            path = f"/desk/held{found[1]}" if found else ""
        assert seen == ["pi_unknown", "pi_refused", *(f"many_{number:03}" for number in range(120))]

    async def test_a_search_finds_a_part_of_a_ref_and_a_user(self, at: Desk) -> None:
        assert refs(await at.page("/desk/search?q=_plan")) == ["pi_planned"]
        assert refs(await at.page("/desk/search?q=44")) == ["pi_delivered", "pi_granted"]
        assert "No ref contains “%”" in await at.page("/desk/search?q=%25")
        assert "a whole user id" in await at.page("/desk/search?q=")

    async def test_a_grant_is_shown_with_all_attempts_and_decisions(self, at: Desk) -> None:
        await at.ledger.decide("pi_unknown", "retry", None, "first reason")
        await hold(at.ledger, "pi_unknown")
        await at.ledger.decide("pi_unknown", "granted", None, "second reason")
        page = await at.page("/desk/grant?ref=pi_unknown")
        assert page.count("reply lost") == 2
        assert page.index("first reason") < page.index("second reason")

    async def test_what_does_not_exist_is_a_404(self, at: Desk) -> None:
        for path in "grant?ref=nobody", "grant", "grant?ref=%00", "decide?ref=nobody&verb=retry", "nowhere":
            await at.page(f"/desk/{path}", 404)
        for path in "decide?ref=pi_unknown&verb=delete", "held?after=nobody", "held?after=%00", "letters?after=x":
            await at.page(f"/desk/{path}", 404)
        for path in "letter?id=1", "letter?id=x", f"letter?id={'9' * 40}", "settle?id=7&verb=drop":
            await at.page(f"/desk/{path}", 409)

    async def test_links_are_masked_until_they_are_asked_for(self, at: Desk) -> None:
        paths = "held", "owed", "undelivered", "search?q=pi", "grant?ref=pi_granted", "grant?ref=pi_delivered"
        assert not [path for path in paths if CANARY_KEY in await at.page(f"/desk/{path}")]
        answer = await at.post(*await at.form("/desk/grant?ref=pi_granted"))
        assert answer.status_code == 200
        assert f'<code id="link">{LINK}</code>' in answer.text

    async def test_a_desk_without_an_inbox_has_no_dead_letters(self) -> None:
        async with MemoryLedger() as ledger:
            app = desk_app(ledger, guard=Guard())
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as client:
                assert "Dead letters" not in (await client.get("/held")).text
                assert (await client.get("/letters")).status_code == 404
                assert (await client.get("/letter?id=1")).status_code == 404

    def test_it_is_for_a_ledger(self) -> None:
        with pytest.raises(UsageError, match="takes a Ledger"):
            desk_app("grants.db", guard=Guard())  # type: ignore[arg-type]


class TestDecisions:
    """What a confirmed decision does."""

    @pytest.mark.parametrize(
        ("ref", "verb", "status"),
        [
            ("pi_unknown", "granted", GrantStatus.GRANTED),
            ("pi_unknown", "retry", GrantStatus.PLANNED),
            ("pi_refused", "abandon", GrantStatus.ABANDONED),
            ("pi_planned", "abandon", GrantStatus.ABANDONED),
        ],
    )
    async def test_it_is_made_with_its_reason(self, at: Desk, ref: str, verb: str, status: GrantStatus) -> None:
        action, fields = await at.form(f"/desk/decide?ref={ref}&verb={verb}")
        assert await at.status(ref) is not status, "the page decides nothing"
        answer = await at.post(action, {**fields, "reason": f" {REASON} "})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/desk/grant?ref={ref}")
        assert await at.status(ref) is status
        [made] = await at.ledger.decisions(ref)
        assert (made.decision, made.reason) == (verb, REASON)

    @pytest.mark.parametrize("token", [LINK, CANARY_KEY])
    async def test_a_link_that_the_owner_has_is_kept_for_the_delivery(self, at: Desk, token: str) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=granted")
        assert (await at.post(action, {**fields, "reason": REASON, "token": f" {token} "})).status_code == 303
        grant = await at.ledger.get("pi_unknown")
        assert grant is not None
        assert grant.token is not None
        assert grant.token.best == token

    async def test_without_a_reason_it_asks_again(self, at: Desk) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=granted")
        wrong = [("", ""), (" ", ""), ("x" * 1_001, ""), (REASON, "two words")]
        for reason, token in wrong:
            answer = await at.post(action, {**fields, "reason": reason, "token": token})
            assert answer.status_code == 422
            [fields["csrf"]] = re.findall(r'name="csrf" value="(.*?)"', answer.text)
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 303

    async def test_a_row_that_was_decided_in_another_tab_is_left_as_it_is(self, at: Desk) -> None:
        first = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=retry")
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 303
        late = await at.post(first[0], {**first[1], "reason": "the second tab"})
        assert late.status_code == 409
        assert "This grant has changed" in late.text
        assert await at.status("pi_unknown") is GrantStatus.PLANNED
        assert len(await at.ledger.decisions("pi_unknown")) == 1

    async def test_a_row_that_was_sent_again_meanwhile_is_left_as_it_is(self, at: Desk) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        await at.ledger.decide("pi_unknown", "retry", None, "")
        await hold(at.ledger, "pi_unknown")
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 409
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    async def test_what_cannot_be_decided_is_not_offered(self, at: Desk) -> None:
        await at.page("/desk/decide?ref=pi_delivered&verb=abandon", 409)
        await at.page("/desk/decide?ref=pi_planned&verb=granted", 409)
        assert "/decide?" not in await at.page("/desk/grant?ref=pi_delivered")

    async def test_a_dead_letter_is_replayed_or_dropped_with_a_reason(self, at: Desk) -> None:
        await bury(at.inbox, "order_completed", "order_refunded")
        page = await at.page("/desk/letters")
        assert "order_completed" in page
        assert CANARY_KEY not in page + await at.page("/desk/letter?id=1")
        shown = await at.post(*await at.form("/desk/letter?id=1"))
        assert LINK in shown.text
        replay, drop = [await at.form(f"/desk/settle?id={n}&verb={verb}") for n, verb in ((1, "replay"), (2, "drop"))]
        for action, fields in (replay, drop):
            asked = await at.post(action, fields)
            assert asked.status_code == 422
            fields["csrf"] = re.findall(r'name="csrf" value="(.*?)"', asked.text)[0]
            assert (await at.post(action, {**fields, "reason": REASON})).status_code == 303
        assert [(one.status, one.note) for one in await at.inbox.entries()] == [
            (EntryStatus.STORED, f"replayed: {REASON}"),
            (EntryStatus.DONE, f"dropped: {REASON}"),
        ]

    async def test_a_dead_letter_that_was_settled_in_another_tab_is_left_as_it_is(self, at: Desk) -> None:
        await bury(at.inbox, "order_completed")
        first, second = [await at.form(f"/desk/settle?id=1&verb={verb}") for verb in ("replay", "drop")]
        assert (await at.post(first[0], {**first[1], "reason": REASON})).status_code == 303
        assert (await at.post(second[0], {**second[1], "reason": REASON})).status_code == 409
        assert [entry.status for entry in await at.inbox.entries()] == [EntryStatus.STORED]


class TestRefusals:
    """Whatever does not come from the owner's browser, and from a page of the desk, gets 403 and changes nothing."""

    PATHS = ("", "held", "owed", "search?q=pi", "grant?ref=pi_granted", "letters", "desk.css", "desk.js", "nowhere")

    @pytest.mark.parametrize("cookie", [None, "", "a.b", f"{TOKEN}.{TOKEN}", "ä.ö"])
    async def test_without_the_token_nothing_is_answered(self, at: Desk, cookie: str | None) -> None:
        headers = {} if cookie is None else {b"cookie": f"tgmembership_desk={cookie}".encode()}
        async with httpx.AsyncClient(base_url=at.url, trust_env=False, headers=headers, verify=NO_TLS) as stranger:
            for path in self.PATHS:
                answer = await stranger.get(f"/desk/{path}")
                assert (answer.status_code, "pi_" in answer.text) == (403, False)
            assert (await stranger.get("/")).status_code == 403
            for token in "", "wrong", f"{TOKEN}x", "ключ":
                answer = await stranger.get("/", params={"token": token})
                assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
            action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
            stolen = await stranger.post(action, data={**fields, "reason": REASON}, headers={"origin": at.url})
            assert stolen.status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "http://127.0.0.1:1"},
            {"origin": "http://127.0.0.1:1", "sec_fetch_site": ""},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
            {"origin": "null", "sec_fetch_site": "same-site"},
            {"origin": "null", "sec_fetch_site": ""},
            {"origin": "", "sec_fetch_site": ""},
            {"origin": "", "sec_fetch_site": "none"},
            {"origin": "", "sec_fetch_site": "", "referer": "https://evil.example/?http://127.0.0.1"},
        ],
    )
    async def test_a_form_of_a_foreign_origin(self, at: Desk, headers: dict[str, str]) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        assert (await at.post(action, {**fields, "reason": REASON}, **headers)).status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    @pytest.mark.parametrize("headers", [{"origin": "null"}, {"origin": ""}, {"sec_fetch_site": ""}])
    async def test_a_form_of_the_desk_is_known_by_any_of_the_three_headers(
        self, at: Desk, headers: dict[str, str]
    ) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        assert (await at.post(action, {**fields, "reason": REASON}, **headers)).status_code == 303

    @pytest.mark.parametrize(
        "host", ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example"]
    )
    async def test_a_name_that_was_rebound(self, at: Desk, host: str) -> None:
        for path in (*self.PATHS, f"?token={TOKEN}"):
            answer = await at.client.get(f"/desk/{path}", headers={"host": host})
            assert (answer.status_code, "pi_" in answer.text, answer.headers.get("set-cookie")) == (403, False, None)
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        answer = await at.post(action, {**fields, "reason": REASON}, host=host, origin=f"http://{host}")
        assert answer.status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    async def test_a_form_that_was_sent_before(self, at: Desk) -> None:
        reveal = await at.form("/desk/grant?ref=pi_granted")
        assert [(await at.post(*reveal)).status_code for _ in range(3)] == [200, 403, 403]
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=retry")
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 303
        await hold(at.ledger, "pi_unknown")
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    @pytest.mark.parametrize(
        "change",
        [
            {"csrf": ""},
            {"csrf": "9999999999.a.b"},
            {"csrf": "x.y.z"},
            {"csrf": "ü"},
            {"ref": "pi_refused"},
            {"verb": "retry"},
            {"seen": "refused.1.0"},
        ],
    )
    async def test_a_form_that_was_changed(self, at: Desk, change: dict[str, str]) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        answer = await at.post(action, {**fields, **change, "reason": REASON})
        assert answer.status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN
        assert await at.status("pi_refused") is GrantStatus.REFUSED

    async def test_a_form_of_another_browser_or_of_another_page(self, at: Desk) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        assert (await at.post("/desk/grant", fields)).status_code == 403
        await at.client.get(f"/?token={TOKEN}")  # a new cookie
        assert (await at.post(action, {**fields, "reason": REASON})).status_code == 403
        assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    async def test_a_form_that_is_an_hour_old(self, quick_path: Path) -> None:
        now = 1_000_000.0
        async with desk(quick_path, clock=lambda: now) as at:
            await hold(at.ledger, "pi_unknown")
            action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
            now += 3_601
            assert (await at.post(action, {**fields, "reason": REASON})).status_code == 403
            assert await at.status("pi_unknown") is GrantStatus.UNKNOWN

    async def test_a_form_that_is_too_long(self, at: Desk) -> None:
        action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=abandon")
        assert (await at.post(action, {**fields, "reason": "x" * 60_000})).status_code == 413

    @pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    async def test_other_verbs_do_nothing(self, at: Desk, verb: str) -> None:
        answer = await at.client.request(verb, "/desk/decide?ref=pi_unknown&verb=abandon", headers={"origin": at.url})
        assert answer.status_code == 405

    async def test_every_answer_has_the_strict_headers_and_no_secret_in_a_url(self, at: Desk) -> None:
        async with httpx.AsyncClient(base_url=at.url, trust_env=False) as stranger:
            for path in (*self.PATHS, "decide?ref=pi_unknown&verb=granted"):
                for client in at.client, stranger:
                    answer = await client.get(f"/desk/{path}")
                    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
                    assert not re.search(f"{CANARY_KEY}|{TOKEN}", f"{answer.headers}{answer.text}")
        assert HEADERS["cache-control"] == "no-store"
        assert "unsafe" not in HEADERS["content-security-policy"]

    async def test_the_cookie_is_for_this_path_and_for_no_script(self, at: Desk) -> None:
        cookie = (await at.client.get(f"/?token={TOKEN}")).headers["set-cookie"]
        assert cookie.partition("; ")[2] == "Path=/desk/; HttpOnly; SameSite=Strict"

    def test_a_short_secret(self) -> None:
        with pytest.raises(UsageError, match="at least 32 characters"):
            Guard(secret=Secret("short"))


class Attributes(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


async def test_hostile_refs_notes_reasons_and_events_are_shown_as_text(at: Desk) -> None:
    ref = HOSTILE.replace(" ", "_")
    await hold(at.ledger, ref, note=f"{HOSTILE}\x1b[31m\u202e")
    await at.ledger.decide(ref, "retry", None, HOSTILE)
    await bury(at.inbox, HOSTILE)
    query = str(httpx.QueryParams({"ref": ref}))
    paths = ["held", "owed", f"grant?{query}", f"decide?{query}&verb=abandon", "letters", "letter?id=1"]
    paths += ["settle?id=1&verb=drop", str(httpx.QueryParams({"q": HOSTILE})).join(["search?", ""])]
    pages = [await at.page(f"/desk/{path}") for path in paths]
    pages.append((await at.post(*await at.form("/desk/letter?id=1"))).text)
    pages.append(await at.page(f"/desk/grant?{httpx.QueryParams({'ref': HOSTILE})}", 404))
    for page in pages:
        found = Attributes(page)
        assert not {"img", "svg", "iframe"} & found.tags
        assert not [name for name in found.names if name.startswith("on") or name == "style"]
        assert page.count("<script") == 1
        assert not {"\x1b", "\u202e"} & set(page)
    assert "49" not in pages[3].partition("<main")[2].partition("csrf")[0]


async def test_no_log_names_a_token_or_a_link(at: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await at.post(*await at.form("/desk/grant?ref=pi_granted"))
    action, fields = await at.form("/desk/decide?ref=pi_unknown&verb=granted")
    await at.post(action, {**fields, "reason": REASON, "token": LINK})
    told = [record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")]
    assert not any(CANARY_KEY in line for line in told)
    assert TOKEN not in repr(Guard(token=Secret(TOKEN)))


class Broken(MemoryLedger):
    """A ledger whose server does not answer."""

    async def count(self, prefix: str = "") -> dict[GrantStatus, int]:  # noqa: ARG002 - as a MemoryLedger has it
        """Fail as a ledger does whose disk or server fails."""
        msg = "cannot reach the server of the ledger"
        raise StorageError(msg)


async def test_a_ledger_that_fails_is_a_503_that_says_so() -> None:
    async with Broken() as ledger:
        app = desk_app(ledger, guard=Guard())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as client:
            answer = await client.get("/held")
    assert (answer.status_code, answer.text) == (503, "cannot reach the server of the ledger\n")


async def test_the_desk_of_one_bot_in_a_shared_ledger_shows_its_own_rows() -> None:
    async with MemoryLedger(shared_by_bots=True) as whole:
        for bot_id in 1, 2:
            await hold(BotLedger(whole, bot_id), f"pi_of_{bot_id}", member_id=7)
        app = desk_app(BotLedger(whole, 1), guard=Guard())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as client:
            for path in "/held", "/search?q=7", "/search?q=pi":
                page = (await client.get(path)).text
                assert (refs(page), "Held <b>1</b>" in page) == (["pi_of_1"], True)
