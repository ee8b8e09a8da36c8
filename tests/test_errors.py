"""The exceptions: their hierarchy, one-line messages, and equal fields after pickling."""

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any

import pytest

import tgmembership_async
from tgmembership_async import errors
from tgmembership_async.errors import (
    Advice,
    APIError,
    CallError,
    DeadlineExceeded,
    GrantHeld,
    OutcomeUnknown,
    ReplyLost,
    TGMembershipError,
    UnexpectedReply,
    UsageError,
)
from tgmembership_async.grants import Grant, GrantStatus


def row(status: GrantStatus) -> Grant:
    return Grant("r", 1, 42, status, None, 1, "", datetime(2026, 1, 2, tzinfo=UTC))


PARENTS = {
    "TGMembershipError": ["UsageError", "CallError", "GrantError", "WebhookError"],
    "UsageError": ["InvalidValue"],
    "CallError": ["NotSent", "ReplyLost", "DeadlineExceeded", "UnexpectedReply", "OutcomeUnknown", "APIError"],
    "APIError": ["BadRequest", "Unauthorized", "Forbidden", "NotFound", "Conflict", "RateLimited", "ServerError"],
    "GrantError": ["RefConflict", "GrantHeld"],
    "WebhookError": ["NotAuthentic", "Unreadable"],
}
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TGMembershipError)]
CALL: dict[str, Any] = {"method": "addMember", "attempts": 3, "elapsed": 1.5, "maybe_applied": True}
CODES = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 429: "RateLimited"}

each_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def _drawn(tree: str) -> Iterator[tuple[str, str]]:
    """Parse pairs of child and parent from a drawn tree; ` · ` separates siblings on one line."""
    path = ["TGMembershipError"]
    for bars, line in re.findall(r"^    ((?:[│ ]   )*)[├└]── (.*)$", tree, re.MULTILINE):
        del path[len(bars) // 4 + 1 :]
        names = [re.findall(r"\w+", name)[0] for name in line.split("  ")[0].split(" · ")]
        yield from ((name, path[-1]) for name in names)
        path.append(names[-1])


def _made(kind: type[TGMembershipError]) -> TGMembershipError:
    """Return an error of this class with all fields set."""
    fields: dict[str, object] = {}
    if issubclass(kind, CallError):
        fields |= CALL
    if issubclass(kind, APIError):
        fields |= {"code": 429, "description": "Slow down", "status": 429, "request_id": "r-1", "retry_after": 1.5}
    if issubclass(kind, UnexpectedReply):
        fields["body"] = b"<html>"
    if issubclass(kind, OutcomeUnknown):
        fields["cause"] = ReplyLost("the reply was lost", **CALL)
    if issubclass(kind, GrantHeld):
        fields["grant"] = ("stripe:pi_1", 1)
    return kind("It happened; try again", **fields)


def _fields(error: BaseException) -> dict[str, object]:
    fields = {name: value for name, value in vars(error).items() if not isinstance(value, BaseException)}
    nested = {name: _fields(value) for name, value in vars(error).items() if isinstance(value, BaseException)}
    return {"class": type(error), "args": error.args, "text": str(error), "repr": repr(error), **fields, **nested}


def test_the_tree_is_the_one_that_the_docstring_draws() -> None:
    tree = {(kind.__name__, kind.__bases__[0].__name__) for kind in CLASSES if kind is not TGMembershipError}

    assert set(_drawn(errors.__doc__ or "")) == tree


@pytest.mark.parametrize(("parent", "child"), [(parent, child) for parent in PARENTS for child in PARENTS[parent]])
def test_an_error_has_the_parent_that_was_promised(parent: str, child: str) -> None:
    assert getattr(errors, child).__bases__[0] is getattr(errors, parent)


@each_class
def test_it_is_importable_from_the_package(kind: type[TGMembershipError]) -> None:
    assert getattr(tgmembership_async, kind.__name__) is kind


def test_two_are_also_what_python_calls_them() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)


@each_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_comes_out_of_pickle_with_equal_fields(kind: type[TGMembershipError], protocol: int) -> None:
    error = _made(kind)

    assert _fields(pickle.loads(pickle.dumps(error, protocol))) == _fields(error)


@each_class
def test_it_is_copied_with_equal_fields(kind: type[TGMembershipError]) -> None:
    assert _fields(copy.deepcopy(_made(kind))) == _fields(_made(kind))


@each_class
def test_it_reads_in_one_line(kind: type[TGMembershipError]) -> None:
    text = str(_made(kind))

    assert text == ("addMember: It happened; try again" if issubclass(kind, CallError) else "It happened; try again")


def test_a_call_error_without_a_method_is_its_message() -> None:
    assert str(CallError("It happened")) == "It happened"


@each_class
def test_every_field_has_a_default(kind: type[TGMembershipError]) -> None:
    assert str(kind("It happened")) == "It happened"


@pytest.mark.parametrize(
    ("code", "name"), [*CODES.items(), (500, "ServerError"), (599, "ServerError"), (402, "APIError"), (0, "APIError")]
)
def test_a_code_has_its_class(code: int, name: str) -> None:
    error = APIError.for_code(code, "No", description="why", **CALL)

    assert type(error).__name__ == name
    assert (error.code, error.description, error.method) == (code, "why", "addMember")


ADVICE: list[tuple[TGMembershipError, str]] = [
    (errors.TGMembershipError("no"), "fix_code"),
    (errors.UsageError("no"), "fix_code"),
    (errors.InvalidValue("no"), "fix_request"),
    (errors.CallError("no"), "call_again"),
    (errors.NotSent("no"), "call_again"),
    (errors.ReplyLost("no"), "call_again"),
    (errors.ReplyLost("an idempotent call", maybe_applied=True), "call_again"),
    (errors.DeadlineExceeded("no"), "call_again"),
    (errors.UnexpectedReply("a read"), "call_again"),
    (errors.UnexpectedReply("the result of a call that was done", maybe_applied=True), "decide"),
    (errors.OutcomeUnknown("no", maybe_applied=True), "decide"),
    (errors.BadRequest("no"), "fix_request"),
    (errors.NotFound("no"), "fix_request"),
    (errors.Conflict("no"), "fix_request"),
    (errors.Unauthorized("no"), "fix_credentials"),
    (errors.Forbidden("no"), "fix_credentials"),
    (errors.RateLimited("no"), "wait"),
    (errors.ServerError("no", code=500), "call_again"),
    (errors.ServerError("no", code=500, retry_after=2), "wait"),
    (errors.ServerError("no", code=503), "wait"),
    (errors.APIError("no", code=402), "fix_request"),
    (errors.APIError("no", code=422), "fix_request"),
    (errors.APIError("turned away", code=421), "call_again"),
    (errors.APIError("turned away", code=425, retry_after=0), "wait"),
    (errors.APIError("ok: false, and no error's code", code=200), "call_again"),
    (errors.APIError("no code"), "call_again"),
    (errors.GrantError("no"), "fix_request"),
    (errors.RefConflict("no"), "fix_request"),
    (errors.GrantHeld("no"), "decide"),
    (errors.GrantHeld("no", grant=row(GrantStatus.UNKNOWN)), "decide"),
    (errors.GrantHeld("another worker sends it", grant=row(GrantStatus.SENDING)), "wait"),
    (errors.GrantHeld("its answer is not stored", grant=row(GrantStatus.GRANTED)), "free_storage"),
    (errors.GrantHeld("its answer is not stored", grant=row(GrantStatus.REFUSED)), "free_storage"),
    (errors.StorageError("no"), "free_storage"),
    (errors.WebhookError("no"), "fix_request"),
    (errors.NotAuthentic("no"), "fix_credentials"),
    (errors.Unreadable("no"), "fix_request"),
]


@pytest.mark.parametrize(("error", "advice"), ADVICE, ids=str)
def test_it_says_what_to_do_and_whether_calling_again_may_help(error: TGMembershipError, advice: str) -> None:
    assert error.advice is Advice(advice)
    assert error.retryable == (advice in ("call_again", "wait", "free_storage"))


def test_every_error_and_every_advice_is_in_that_list() -> None:
    assert {type(error) for error, _ in ADVICE} == set(CLASSES)
    assert {advice for _, advice in ADVICE} == set(Advice)


def test_an_error_of_ones_own_has_the_advice_of_its_base() -> None:
    class TooPoor(errors.BadRequest): ...

    assert TooPoor("no").advice is Advice.FIX_REQUEST


def test_it_crosses_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_made, OutcomeUnknown).result(timeout=30)

    assert _fields(error) == _fields(_made(OutcomeUnknown))
