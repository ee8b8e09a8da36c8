"""Documentation pages for tests: parse the code fences, and run them as a reader would."""

import ast
import asyncio
import contextlib
import io
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from attrs import Factory, frozen, mutable
from fork_request import ADDRESS
from forked import program
from ports import free_port
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

ROOT: Final = Path(__file__).parents[1]
_FENCE: Final = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"(?:^|[Ss]ave (?:this|it) as\s+)`([\w.]+\.\w+)`")
_SERVES: Final = re.compile(r"tgmembership (fake|webhook listen)\b")
_PORT: Final = re.compile(r"\b(8000|8080)\b")
_PROMPTLY: Final = 60
_COMMANDS: Final = {"tgmembership": "tgmembership_async.cli", "procrastinate": "procrastinate"}


@frozen
class Fence:
    """A code fence: its position, language and code, and the paragraph before it."""

    page: Path
    line: int
    language: str
    code: str
    before: str

    @property
    def file(self) -> str | None:
        """Return the file name under which the page says to save it, if any."""
        found = _FILE.findall(self.before)
        return found[-1] if found else None

    @property
    def is_output(self) -> bool:
        """Tell whether it is the output of the fence before it."""
        return self.language == "text" and (not self.before or self.before.endswith("prints:"))


def fences(page: Path) -> list[Fence]:
    """Return the fences of a page, except Sphinx directives."""
    text, end, found = page.read_text(encoding="utf-8"), 0, list[Fence]()
    for match in _FENCE.finditer(text):
        before = text[end : match.start()].strip().rpartition("\n\n")[2]
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Fence(page, line, match["language"], match["code"], before))
        end = match.end()
    return [fence for fence in found if not fence.language.startswith("{")]


@mutable
class Reader:
    """Run the fences of a page in order in the current folder, and record which functions they define and call."""

    names: dict[str, Any]
    runner: asyncio.Runner
    printed: str = ""
    shown: set[str] = Factory(set)
    called: set[str] = Factory(set)

    def read(self, fence: Fence) -> None:
        """Run or save a fence as a reader would."""
        if fence.file is not None:
            Path(fence.file).write_text(fence.code, encoding="utf-8")
        if fence.language == "python":
            self._read_python(fence)
        elif fence.language == "bash":
            bash(fence.code)
        elif fence.is_output:
            assert fence.code == self.printed, f"{fence.page}:{fence.line}: this is not what was printed"
        else:
            assert fence.language == "text", f"{fence.page}:{fence.line}: say how tests run {fence.language!r}"

    def _read_python(self, fence: Fence) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            if fence.file is None:
                self._run(fence)
            elif f"`python {fence.file}` prints" in fence.page.read_text(encoding="utf-8"):
                runpy.run_path(fence.file, run_name="__main__")
        self.printed = told.getvalue()

    def _run(self, fence: Fence) -> None:
        tree = ast.parse("\n" * (fence.line - 1) + fence.code, str(fence.page))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.shown.add(where := f"{node.name}, line {node.lineno}")
                node.body[:0] = ast.parse(f"_called({where!r})").body
        code = compile(tree, str(fence.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        self.names["_called"] = self.called.add
        ended = eval(code, self.names)
        if asyncio.iscoroutine(ended):
            self.runner.run(ended)


def bash(script: str) -> None:
    """Run a script unchanged, except for free ports; a server is interrupted at its first output."""
    ports: dict[str, str] = {}
    script = _PORT.sub(lambda match: ports.setdefault(match[0], str(free_port())), script)
    command = ["bash", "-euo", "pipefail", "-c", f"exec {script}" if _SERVES.match(script) else script]
    with (
        _commands() as folder,
        subprocess.Popen(
            command,
            env={**os.environ, "PATH": os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        said = ""
        if _SERVES.match(script):
            assert process.stdout is not None
            said = process.stdout.readline()
            process.send_signal(signal.SIGINT)
        try:
            said += process.communicate(timeout=_PROMPTLY)[0]
        finally:
            process.kill()
    assert process.returncode in ((0, 130) if _SERVES.match(script) else (0,)), f"{script}\n{said}"
    assert "Traceback" not in said, said


@contextlib.contextmanager
def _commands() -> Iterator[str]:
    """Yield a folder with the commands of this environment, each of which uses the fork server."""
    with tempfile.TemporaryDirectory() as folder:
        for name, module in _COMMANDS.items() if ADDRESS in os.environ else ():
            command = Path(folder, name)
            command.write_text(f'#!/bin/sh\nexec {shlex.join(program("-m", module))} "$@"\n', encoding="utf-8")
            command.chmod(0o755)
        yield folder


def executed(page: str, section: str) -> dict[str, Any]:
    """Execute the Python fences of a section of a page, in order, and return the names that they define."""
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "docs" / page)
    module = sys.modules["recipe"] = ModuleType("recipe")  # frameworks resolve annotations in it
    del module.__spec__  # from Python 3.15 on, a traceback warns of a spec without a loader
    document.namespace = vars(module)
    starts = [(found.start(), found[1]) for found in re.finditer(r"^## (.*)$", document.text, re.MULTILINE)]
    for example in document.examples():
        if [title for start, title in starts if start < example.start][-1] == section:
            example.evaluate()
    return vars(module)
