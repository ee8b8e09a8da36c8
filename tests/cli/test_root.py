"""The root command: help, version, and errors about missing extras."""

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from command_line import COMMAND, tgmembership
from forked import Forked

from tgmembership_async.cli import main
from tgmembership_async.cli.root import Commands
from tgmembership_async.grants import GrantRequest, SqliteLedger
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.version import __version__


def test_the_version_is_the_packages() -> None:
    assert tgmembership("--version").stdout == f"tgmembership {__version__}\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands(option: str) -> None:
    shown = tgmembership(option).stdout
    assert re.search(r"demo +Run `provision` under injected faults", shown)
    assert re.search(r"fake +Run a fake TGmembership service", shown)


@pytest.mark.parametrize("name", ["demo", "fake", "grants", "provision"])
def test_each_command_has_help_of_its_own(name: str) -> None:
    done = tgmembership(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: tgmembership {name}" in done.stdout


def test_an_unknown_command_is_wrong_use() -> None:
    done = tgmembership("nonsense")
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_named_in_one_line(missing: str) -> None:
    done = _python(
        f"import sys; sys.modules[{missing!r}] = None\nfrom tgmembership_async.cli import main\nmain(['demo'])"
    )
    assert done.returncode == 2
    assert done.stderr == "The command line needs an extra: run pip install '.[cli]' in the clone of the package\n"


def test_any_other_missing_module_is_not_blamed_on_the_extra() -> None:
    done = _python(
        "import sys; sys.modules['tgmembership_async.cli.root'] = None\nfrom tgmembership_async.cli import main\nmain()"
    )
    assert "ModuleNotFoundError" in done.stderr


def test_a_missing_test_kit_is_named() -> None:
    done = _python("import sys; sys.modules['uvicorn'] = None\nfrom tgmembership_async.cli import main\nmain(['fake'])")
    assert done.returncode == 2
    assert "run pip install '.[testing]' in the clone of the package" in done.stderr


@pytest.mark.parametrize("module", ["click", "tgmembership_async.cli.signals", "tgmembership_async.cli.fake"])
def test_ctrl_c_while_a_module_is_imported_is_an_interrupt(module: str) -> None:
    done = _python(
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "from tgmembership_async.cli import main\n"
        "main(['fake'])"
    )
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_ctrl_c_while_the_arguments_are_parsed_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parse_args(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "parse_args", parse_args)
    with pytest.raises(SystemExit) as ended:
        main(["plans"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["grants", "list"], ["grants", "list", "--format", "table"], ["provision"]]
)
def test_output_that_cannot_be_written_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    async def grant() -> None:
        async with SqliteLedger(tmp_path / "grants.db") as ledger:
            await ledger.claim(GrantRequest("a", 1))

    anyio.run(grant)
    members = tmp_path / "members.csv"
    members.write_text("ref,member_id\nb,42\n", encoding="utf-8")
    service = FakeService()
    service.populate()
    with serve(service) as server, FULL.open("w") as full:
        for name, value in {
            **server.env(),
            "TGMEMBERSHIP_LEDGER": str(tmp_path / "grants.db"),
            "NO_PROXY": "*",
        }.items():
            monkeypatch.setenv(name, value)
        more = [str(members), "--plan-id", "1"] if arguments == ["provision"] else []
        with Forked([*COMMAND, *arguments, *more], stdout=full, stderr=subprocess.PIPE, text=True) as process:
            said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.splitlines()[-1] == "Error: the output cannot be written: No space left on device"
    assert "Traceback" not in said
