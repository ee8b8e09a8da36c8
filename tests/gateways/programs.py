"""Programs of others that run beside a test: found or skipped, started on a free port of loopback, ended by pid."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
from ports import free_port

_STARTING_TAKES_AT_MOST = 20.0
_ENDING_TAKES_AT_MOST = 3.0
_WHERE_DEBIAN_HAS_THEM = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def found(binary: str) -> str:
    """Return the path of a program; skip the test, or fail as services are required, where there is none."""
    path = shutil.which(binary, path=_WHERE_DEBIAN_HAS_THEM)
    if path is None:
        why = f"no {binary} here (Debian has it as a package)"
        if os.environ.get("TGM_REQUIRE_GATEWAYS") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return path


def other_user() -> str | None:
    """Return who runs programs that refuse to be run by root, or None where we are somebody else already."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("nobody").pw_name
    return pytest.skip("this program refuses to be run by root, and there is no user nobody")


class Program:
    """A program in the foreground, with the folder of its files. `host` and `port` say where it listens."""

    binary: ClassVar[str]
    needs_other_user: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.path = found(self.binary)
        self.user = other_user() if self.needs_other_user else None
        self.folder = folder / Path(self.binary).name
        self.folder.mkdir()
        if self.user:
            shutil.chown(self.folder, self.user)
        self.host = "127.0.0.1"
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """Return its arguments."""
        raise NotImplementedError

    def reload(self) -> None:
        """Let it read its settings again, without an end."""
        self.processes[-1].send_signal(signal.SIGHUP)

    def write(self, name: str, text: str) -> Path:
        """Write a file for it, and return the path."""
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *more: str) -> None:
        """Start it, and wait until it listens."""
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(
                [self.path, *self.command(), *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                user=self.user,
            )
        self.processes.append(process)
        end = time.monotonic() + _STARTING_TAKES_AT_MOST
        while not self._listens():
            assert process.poll() is None, f"{self.binary} ended: {self.output()}"
            assert time.monotonic() < end, f"{self.binary} does not listen: {self.output()}"
            time.sleep(0.02)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it and what it has started; who does not go when asked is killed."""
        family = [
            one
            for process in self.processes
            if process.poll() is None
            for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True))
        ]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(family, timeout=_ENDING_TAKES_AT_MOST)[1]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        for process in self.processes:
            process.wait(_ENDING_TAKES_AT_MOST)
        self.processes.clear()

    def restart(self) -> None:
        """End it and start it again, on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
