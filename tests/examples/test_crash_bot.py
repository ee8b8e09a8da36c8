"""However often the bot is killed, each payment ends as a link or as a question to the owner, and is granted once."""

from pathlib import Path

import pytest
from crash_bot import crash_the_bot
from figures import record
from forked import CAN_FORK


@pytest.mark.crash_bot
@pytest.mark.skipif(not CAN_FORK, reason="each start of the bot would import for five seconds")
async def test_a_hundred_kills_lose_no_payment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = await crash_the_bot(tmp_path, payments=2_000, kills=100, seed=1)
    row = {
        "payments": len(ends.refs),
        "kills": ends.kills,
        "granted twice": len(ends.granted_twice),
        "lost": len(ends.lost),
        "without link or question": len(ends.silent),
        "links": len(ends.said.links),
        "repeated": ends.repeats,
        "questions to the owner": len(ends.said.questions),
    }
    with capsys.disabled():
        print(f"\n{row}")  # noqa: T201 - what the long run is for
    record("crash_bot", "Kills", row)
    assert ends.granted_twice == []
    assert ends.lost == []
    assert ends.silent == []
    assert ends.with_two_links == []
