"""Processes that cost little: one process loads what they need, and forks for each of them.

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
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import IO, Any, Final

import tgmembership_async

HERE: Final = str(Path(tgmembership_async.__file__).parents[1])
COMMANDS: Final = (
    "tgmembership_async.cli.*",
    "tgmembership_async.ext.procrastinate",
    "tgmembership_async.transport.httpx",
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)


class Forks:
    """A process that has `modules` loaded, and forks when told to; it ends when nobody can tell it any more."""

    def __init__(self, *modules: str) -> None:
        self._control, theirs = socket.socketpair()
        code = f"import forked; forked.serve({theirs.fileno()}, {modules!r})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), HERE])}
        with theirs:
            self._process = Popen(
                [sys.executable, "-W", "error", "-X", "utf8", "-c", code],
                stdin=DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        atexit.register(self.close)

    def fork(self, job: Mapping[str, Any], given: Sequence[int]) -> IO[str]:
        """Fork, and return the file in which its process id and then its wait status are told."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [*given, theirs.fileno()])
        with ours:
            ours.sendall(json.dumps(job).encode())
            ours.shutdown(socket.SHUT_WR)
            return ours.makefile()

    def close(self) -> None:
        """Wait for its end."""
        self._control.close()
        self._process.wait(60)


@cache
def forks(*modules: str) -> Forks:
    """Return the process that has these modules loaded; it stays for as long as this one does."""
    return Forks(*modules)


class Forked(Popen[Any]):
    """`subprocess.Popen` for this Python and arguments of its, which asks for the process instead of making it.

    `loaded` names the modules that the process finds loaded. Where nothing can fork it is the real one.
    """

    def __init__(self, arguments: Sequence[str | Path], *, loaded: Sequence[str] = COMMANDS, **options: Any) -> None:
        self._loaded = loaded
        super().__init__([str(argument) for argument in arguments], **options)

    if hasattr(os, "fork"):  # what follows is the three methods with which Popen makes a process and waits for it

        def _execute_child(self, arguments: Sequence[str], *others: Any) -> None:
            cwd, environment, leads, pipes = others[4], others[5], others[-2], others[9:15]
            job = {
                "arguments": arguments[1:],
                "folder": str(cwd or Path.cwd()),
                "environment": dict(os.environ if environment is None else environment),
                "leads": leads,
            }
            given = [pipe if pipe != -1 else number for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
            self._told = forks(*self._loaded).fork(job, given)
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


def serve(number: int, modules: Sequence[str]) -> None:
    """Load the modules, and fork for each job that comes through a socket, until nobody has one any more."""
    for name in modules:
        for found in _found(name):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                import_module(found)
    gc.collect()
    gc.freeze()  # so that no collection in the forks writes to what they share
    given = _forked(socket.socket(fileno=number))
    if given is not None:
        _be(*given)


def _found(name: str) -> list[str]:
    if not name.endswith(".*"):
        return [name]
    package = import_module(name.removesuffix(".*"))
    modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [module.name for module in modules if not module.name.endswith("__main__")]


def _forked(control: socket.socket) -> tuple[int, ...] | None:
    """Fork, and tell how forks end; return what it was given in each of them, and None in this process at its end."""
    woken, ends = socket.socketpair()
    living: dict[int, socket.socket] = {}
    with control, woken, ends:
        woken.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno())
        sources = [control, ends]
        while control in sources or living:
            for source in select.select(sources, [], [])[0]:
                if source is ends:
                    ends.recv(4096)
                    _tell_ends(living)
                    continue
                asked, given, *_ = socket.recv_fds(control, 1, 4)
                if not asked:
                    sources.remove(control)
                elif pid := os.fork():
                    living[pid] = socket.socket(fileno=given.pop())
                    for pipe in given:
                        os.close(pipe)
                    living[pid].sendall(b"%d\n" % pid)
                else:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in living.values():
                        other.close()
                    return tuple(given)
    return None


def _tell_ends(living: dict[int, socket.socket]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with living.pop(pid) as told, contextlib.suppress(OSError):  # nobody wants to know
            told.sendall(b"%d\n" % status)


def _be(stdin: int, stdout: int, stderr: int, told: int) -> None:
    """Be the process: Python with the arguments, environment, folder and outputs that are given."""
    with open(told, encoding="utf-8") as file:
        job = json.load(file)
    if job["leads"]:
        os.setsid()
    for standard, number in enumerate((stdin, stdout, stderr)):
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
    """Run `-m module ...` or `script ...` as Python would."""
    sys.argv = list(arguments)
    try:
        if arguments[0] == "-m":
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
    """End as Python ends, but leave what is loaded to the system: taking it down copies all of it, for 70 ms of CPU."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)
