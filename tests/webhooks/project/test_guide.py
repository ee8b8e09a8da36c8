"""The guide "project_webhooks.md": its python does what its text says, and its words are those of the code."""

import re
from pathlib import Path
from typing import Any

import anyio
from pages import ROOT, fences

from tgmembership_async.project import Project
from tgmembership_async.testing import FakeProject, FakeTransport
from tgmembership_async.webhooks import HandlingPolicy, MembershipPaid, ProjectVerifier, Receiver, SqliteInbox, joining

PAGE = ROOT / "docs" / "project_webhooks.md"


def test_a_rehearsed_payment_waits_and_is_told(quick_path: Path) -> None:
    names: dict[str, Any] = {}
    [fence] = [fence for fence in fences(PAGE) if fence.language == "python"]
    exec(compile(fence.code, "project_webhooks.md", "exec", dont_inherit=True), names)
    service = FakeProject()
    secret = service.set_webhook("https://shop.example/").secret
    told: list[MembershipPaid] = []

    async def scenario() -> None:
        project = Project(**service.session_options(), transport=FakeTransport(service))
        receiver = Receiver(
            ProjectVerifier(secret), SqliteInbox(quick_path / "inbox.db"), project=project, background=False
        )

        @receiver.on(MembershipPaid)
        async def paid(event: MembershipPaid) -> None:
            told.append(event)

        async with receiver:
            await names["rehearse"](receiver, service)
            with anyio.fail_after(60):
                while not told:
                    await anyio.sleep(0.05)
                    await receiver.process_pending()

    anyio.run(scenario)
    assert [event.user_id for event in told] == [42]


def test_its_words_and_numbers_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    [words] = re.findall(r"it contains (.*?)\)", text)
    assert tuple(re.findall(r"`(\w+)`", words)) == joining._TOP_UP_WORDS
    assert f"After {HandlingPolicy().max_waits} waits (`max_waits`), about one to two hours" in text
    longest = sum(HandlingPolicy().backoff(wait, 0) for wait in range(1, HandlingPolicy().max_waits + 1))
    assert longest / 2 > 3_500
    assert longest <= 7_200
