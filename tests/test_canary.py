"""Test the canary plugin itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from canary import CANARY_KEY, CANARY_SECRET

TESTS = Path(__file__).parent
LEAKS = {
    "prints": "print(CANARY_KEY)",
    "logs": "logging.getLogger('a.b').debug('x %s', CANARY_SECRET)",
    "logs_where_nothing_is_passed_on": "logging.getLogger('alone').debug(CANARY_KEY)",
    "logs_in_a_field": "logging.getLogger('a').warning('x', extra={'url': CANARY_KEY})",
    "logs_a_traceback": "logging.error('x', exc_info=ValueError(CANARY_KEY))",
    "raises": "raise ValueError(CANARY_SECRET)",
    "warns": "warnings.warn(CANARY_KEY)",
    "writes_to_stderr": "os.write(2, CANARY_KEY.encode())",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run one leaking test of each kind with the plugin, and one that does not leak."""
    folder = tmp_path_factory.mktemp("leaking")
    tests = {**LEAKS, "keeps_it": "logging.warning('%d', len(CANARY_KEY))"}
    lines = ["import logging, os, warnings", "from canary import CANARY_KEY, CANARY_SECRET"]
    lines.append("logging.getLogger('alone').propagate = False")
    lines += [f"def test_{name}():\n    {body}" for name, body in tests.items()]
    (folder / "test_leaks.py").write_text("\n".join(lines))
    arguments = [sys.executable, "-W", "error", "-m", "pytest", "-rA", "--showlocals", "-p", "no:cacheprovider"]
    arguments += ["-p", "canary_watch"]
    env = {**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_a_leak_fails_the_test_that_leaks(report: str) -> None:
    assert set(re.findall(r"^(?:FAILED|ERROR) test_leaks.py::test_(\w+)", report, re.MULTILINE)) == set(LEAKS)


def test_a_test_that_keeps_its_secret_passes(report: str) -> None:
    assert "PASSED test_leaks.py::test_keeps_it" in report


def test_the_report_of_a_leak_does_not_leak(report: str) -> None:
    shown = [secret for secret in (CANARY_KEY, CANARY_SECRET) if secret in report]

    assert len(shown) == 0
