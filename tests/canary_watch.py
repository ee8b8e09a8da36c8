"""A pytest plugin that fails each test that leaks a canary secret."""

import logging
from collections.abc import Generator
from warnings import WarningMessage

import pytest
from canary import CANARY_KEY, CANARY_SECRET

LEAK = "a canary secret showed up in what this test {}"


def leaks(text: str) -> bool:
    return CANARY_KEY in text or CANARY_SECRET in text


class Watch(logging.Handler):
    """Record whether any log record contains a canary, in its text, its traceback or its fields."""

    leaked = False

    def emit(self, record: logging.LogRecord) -> None:
        """Search the formatted record and all of its fields."""
        if not self.leaked:
            self.leaked = leaks(self.format(record)) or leaks(repr(vars(record)))


@pytest.hookimpl(wrapper=True, trylast=True)  # the innermost
def _watched() -> Generator[None, object, object]:
    """Fail a test that logs a canary, on any logger at any level."""
    root, watch = logging.getLogger(), Watch(logging.DEBUG)
    named = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    loggers = [root, *(logger for logger in named if not logger.propagate)]
    if root.level != logging.DEBUG:  # it stays, because each change empties the caches of all loggers
        root.setLevel(logging.DEBUG)
    for logger in loggers:
        logger.addHandler(watch)
    try:
        result = yield
    finally:
        for logger in loggers:
            logger.removeHandler(watch)
        if watch.leaked:
            pytest.fail(LEAK.format("logged"), pytrace=False)
    return result


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _watched


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose output or failure contains a canary, without showing it in the report."""
    report = yield
    if leaks(report.longreprtext) or any(leaks(text) for _, text in report.sections):
        report.outcome = "failed"
        report.longrepr = LEAK.format("printed or raised")
        report.sections.clear()
    return report


def pytest_warning_recorded(warning_message: WarningMessage) -> None:
    if leaks(str(warning_message.message)):
        raise AssertionError(LEAK.format("warned of"))
