"""The file of bots that the documentation shows."""

from pathlib import Path

import pytest
from pages import ROOT, fences

from tgmembership_async.cli.bots import profiles


def test_the_file_that_the_page_shows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = (fence.code for fence in fences(ROOT / "docs" / "command_line.md") if fence.language == "toml")
    path = tmp_path / "bots.toml"
    path.touch(0o600)
    path.write_text(shown, encoding="utf-8")
    monkeypatch.setattr(profiles, "file", lambda: path)
    found = profiles.profiles()
    assert (found["shop"].bot_id, found["shop"].inbox) == (8047883872, "/srv/shop/inbox.db")
    assert found["vip"].keyring
    assert all(f"{name} = " in shown for name in profiles._TYPES), "the page shows every setting"
