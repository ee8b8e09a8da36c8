"""Cheap processes for tests: a fork server loads the modules once, and forks for each process.

Each still has a process of its own, with its own environment, output, signals and end; what it is spared is the half
of a second, for aiogram the five seconds, in which libraries are imported.
"""

import atexit
import contextlib
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, Final, Self

from fork_request import ADDRESS, ask

HERE: Final = Path(__file__).parent
_COMMON: Final = (
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "tgmembership_async.transport.httpx",
    "fastapi",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
SHOPS: Final = "TGM_FORKS_OF_SHOPS"
FORKS: Final = {
    ADDRESS: (
        *_COMMON,
        "tgmembership_async.cli.*",
        "tgmembership_async.ext.procrastinate",
        "aiohttp.web",
        "procrastinate.cli",
        "pytest",
    ),
    SHOPS: (
        *_COMMON,
        "aiogram.client.session.aiohttp",
        "stripe",
        "tgmembership_async.ext.aiogram",
        "tgmembership_async.ext.fastapi",
        "tgmembership_async.fulfillment",
        "tgmembership_async.payments.stripe",
    ),
}
"""The modules of each fork server, by the environment variable with its address; SHOPS has what takes seconds."""
CAN_FORK: Final = hasattr(os, "fork")


def program(*arguments: str) -> list[str]:
    """Return a command that runs this Python with these arguments in a fork, for those who start commands."""
    return [sys.executable, *(["-IS", str(HERE / "fork_request.py")] if ADDRESS in os.environ else []), *arguments]


class Forks:
    """A fork server with an address; it loads `modules` at the first request.

    It ends when this one does, and with each who asked end the forks that he asked for.
    """

    def __init__(self, *modules: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks")
        self.address: Final = str(Path(self._folder.name, "socket"))
        self._lifeline, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen()
            code = f"import forked; forked.serve({listener.fileno()}, {theirs.fileno()}, {modules!r})"
            self._process = Popen(
                [sys.executable, "-W", "error", "-X", "utf8", "-c", code],
                stdin=DEVNULL,
                pass_fds=[listener.fileno(), theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])},
            )

    def close(self) -> None:
        """Wait until it exits."""
        self._lifeline.close()
        self._process.wait(60)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Forked(Popen[Any]):
    """`subprocess.Popen` for this Python with arguments, which requests the process from the fork server.

    `forks` names the fork server that it asks. Where nothing can fork it is the real one.
    """

    def __init__(self, arguments: Sequence[str | Path], *, forks: str = ADDRESS, **options: Any) -> None:
        self._forks = forks
        super().__init__([str(argument) for argument in arguments], **options)

    if CAN_FORK:  # override the three methods with which Popen starts a process and waits for it

        def _execute_child(self, arguments: Sequence[str], *others: Any) -> None:
            cwd, environment, leads, pipes = others[4], others[5], others[-2], others[9:15]
            folder = None if cwd is None else str(cwd)
            given = [pipe if pipe != -1 else number for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
            asked = ask(arguments[1:], given, server=self._forks, folder=folder, environment=environment, leads=leads)
            with asked:
                self._told = asked.makefile()
            self._child_created = True
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
            self.pid = int(self._told.readline())

        def _try_wait(self, wait_flags: int) -> tuple[int, int]:
            if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
                return 0, 0
            with self._told:
                return self.pid, int(self._told.readline())

        def _internal_poll(self, *_: Any, **__: Any) -> int | None:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            return self.returncode


def serve(listener: int, lifeline: int, modules: Sequence[str]) -> None:
    """Load the modules, and fork for each job until the lifeline is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test runner, whose end closes the lifeline
    asked = _forked(socket.socket(fileno=listener), socket.socket(fileno=lifeline), modules)
    if asked is not None:
        _be(*asked)


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        for found in _found(name):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                import_module(found)
    gc.collect()
    gc.freeze()  # so that garbage collection in the forks does not copy shared pages


def _found(name: str) -> list[str]:
    if not name.endswith(".*"):
        return [name]
    package = import_module(name.removesuffix(".*"))
    modules = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [module.name for module in modules if not module.name.endswith("__main__")]


Asked = tuple[dict[str, Any], list[int]]


def _forked(listener: socket.socket, lifeline: socket.socket, modules: Sequence[str]) -> Asked | None:
    """Fork for each job, and report exits; return the job in each fork, and None in this process at its end."""
    woken, ends = socket.socketpair()
    living: dict[socket.socket, int] = {}
    loaded = False
    with listener, lifeline, woken, ends:
        woken.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno())
        while lifeline not in (ready := select.select([lifeline, listener, ends, *living], [], [])[0]):
            if ends in ready:
                ends.recv(4096)
                _tell_ends(living)
            _kill(pid for told, pid in living.items() if told in ready)  # the requesting process is gone
            if listener not in ready:
                continue
            if not loaded:
                _load(modules)
                loaded = True
            told = listener.accept()[0]
            job, given = _heard(told)
            if pid := os.fork():
                living[told] = pid
                for pipe in given:
                    os.close(pipe)
                _tell(told, pid)
            else:
                for other in (told, *living):
                    other.close()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return job, given
        _kill(living.values())
    return None


def _heard(told: socket.socket) -> Asked:
    _, given, *_ = socket.recv_fds(told, 1, 3)
    with told.makefile() as file:
        return json.loads(file.readline()), given


def _kill(forks: Iterable[int]) -> None:
    for pid in forks:
        os.kill(pid, signal.SIGKILL)


def _tell(told: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the requesting process is gone
        told.sendall(b"%d\n" % number)


def _tell_ends(living: dict[socket.socket, int]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        [told] = [told for told, fork in living.items() if fork == pid]
        del living[told]
        with told:
            _tell(told, status)


def _be(job: Mapping[str, Any], given: Sequence[int]) -> None:
    """Become the process: Python with the given arguments, environment, folder and outputs."""
    if job["leads"]:
        os.setsid()
    for standard, number in enumerate(given):
        os.dup2(number, standard)
        os.close(number)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good, like the next ones
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    _end(_exit_code_of(job["arguments"]))


def _exit_code_of(arguments: Sequence[str]) -> int:
    """Run `-c code ...`, `-m module ...` or `script ...` as Python would."""
    sys.argv = list(arguments)
    try:
        if arguments[0] == "-c":
            exec(sys.argv.pop(1), vars(sys.modules["__main__"]))
        elif arguments[0] == "-m":
            sys.argv.pop(0)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """Exit like Python, but without freeing modules, which would copy shared pages for 70 ms of CPU."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)
