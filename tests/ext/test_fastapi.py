"""`ext.fastapi` in real applications: what lives how long, who gets what, and what errors answer."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx
import pytest
from asgi_server import on_uvicorn
from canary import CANARY_SECRET
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from no_tls import NO_TLS
from starlette.types import Receive, Scope, Send
from webhook_deliveries import body, signed

from tgmembership_async import Session, TGMembershipError, UsageError, errors
from tgmembership_async.access import Access
from tgmembership_async.ext.fastapi import (
    FulfillmentDep,
    GranterDep,
    ProjectDep,
    SessionDep,
    TGMDep,
    answer_error,
    get_access,
    get_fulfillment,
    get_session,
    lifespan,
    receiver_router,
    require_access,
)
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Grant, Granter, MemoryLedger, SqliteLedger
from tgmembership_async.project import Project
from tgmembership_async.storage.sqlite.owner_lock import OwnerLock
from tgmembership_async.testing import FakeProject, FakeService, FakeTransport, Fault, WebhookSender
from tgmembership_async.webhooks import Receiver, SqliteInbox, Verifier

Client = Callable[[FastAPI], AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run the lifespan of an application, and hand its state to requests, as a server does."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://shop") as client:
            yield client


async def test_endpoints_get_session_and_granter(service: FakeService, session: Session, granter: Granter) -> None:
    app = FastAPI(lifespan=lifespan(session, granter))

    @app.get("/plans")
    async def plans(tgm: SessionDep) -> list[str]:
        return [plan.name for plan in await tgm.get_plans()]

    @app.post("/grants/{ref}")
    async def grant(ref: str, granter: GranterDep) -> str:
        return str((await granter.grant(ref, plan_id=1, member_id=42)).status)

    async with serving(app) as shop:
        assert (await shop.get("/plans")).json()[0] == "My first plan"
        assert [(await shop.post("/grants/pi_1")).json() for _ in range(2)] == ["granted", "granted"]
    assert len(service.audit) == 1
    assert (session.is_open, granter.is_open) == (False, False)


async def test_endpoints_get_a_project_and_what_works_with_it(quick_path: Path) -> None:
    service = FakeProject(users=[42])
    project = Project(**service.session_options(), transport=FakeTransport(service))
    delivered, is_delivered = list[Grant](), anyio.Event()

    async def deliver(grant: Grant) -> None:
        delivered.append(grant)
        is_delivered.set()

    granter = Granter(project, SqliteLedger(quick_path / "orders.db"))
    fulfillment = Fulfillment(granter, deliver=deliver, attention=deliver)
    receiver = Receiver(Verifier(CANARY_SECRET), SqliteInbox(quick_path / "inbox.db"))
    app = FastAPI(lifespan=lifespan(project, receiver=receiver, fulfillment=fulfillment))

    @app.post("/orders/{ref}")
    async def order(ref: str, project: ProjectDep, fulfillment: FulfillmentDep) -> str:
        [plan, *_] = await project.plans()
        return str((await fulfillment.take(ref, plan_id=plan.plan_id, member_id=42)).status)

    @app.get("/plans")
    async def plans(tgm: SessionDep) -> None: ...

    async with serving(app) as shop:
        assert (await shop.post("/orders/A-1")).json() == "planned"
        with anyio.fail_after(10):
            await is_delivered.wait()
        with pytest.raises(UsageError, match="no Session"):
            await shop.get("/plans")
    assert [(grant.ref, grant.member_id) for grant in delivered] == [("A-1", 42)]
    assert not project.is_open
    assert not granter.is_open


async def test_a_receiver_that_is_open_stays_open(quick_path: Path, session: Session) -> None:
    async with Receiver(Verifier(CANARY_SECRET), SqliteInbox(quick_path / "inbox.db")) as receiver:
        async with serving(FastAPI(lifespan=lifespan(session, receiver=receiver))):
            assert receiver.is_open
        assert receiver.is_open
    assert not receiver.is_open


async def test_a_background_task_grants_what_is_in_the_ledger_already(
    service: FakeService, session: Session, granter: Granter
) -> None:
    app = FastAPI(lifespan=lifespan(session, granter))

    @app.post("/payments/{ref}")
    async def paid(ref: str, granter: GranterDep, background: BackgroundTasks) -> str:
        planned = await granter.plan(ref, plan_id=1, member_id=42)
        background.add_task(granter.grant, ref, plan_id=1, member_id=42)
        return str(planned.status)

    async with serving(app) as shop:
        assert (await shop.post("/payments/pi_1")).json() == "planned"
        assert (await shop.post("/payments/pi_1")).json() == "granted"
    assert len(service.audit) == 1


@pytest.mark.parametrize("file", ["ledger", "inbox"])
async def test_a_new_process_waits_for_the_files_of_the_old_one(quick_path: Path, session: Session, file: str) -> None:
    lock = OwnerLock.take(quick_path / file)
    granter = Granter(session, SqliteLedger(quick_path / "ledger"))
    receiver = Receiver(Verifier("secret"), inbox=SqliteInbox(quick_path / "inbox"))
    with pytest.raises(UsageError, match="in use by this process itself"):
        async with serving(FastAPI(lifespan=lifespan(session, granter, receiver, wait=0))):
            pass
    another = Session(8047883872, "k" * 40, transport=FakeTransport(FakeService()))
    granter = Granter(another, SqliteLedger(quick_path / "ledger"))
    async with anyio.create_task_group() as group:

        async def end() -> None:
            await anyio.sleep(0.1)
            lock.release()

        group.start_soon(end)
        async with serving(FastAPI(lifespan=lifespan(another, granter, receiver))):
            assert granter.is_open


async def test_an_applications_own_lifespan_runs_inside(session: Session, granter: Granter) -> None:
    seen: dict[str, bool] = {}

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen["begin"] = session.is_open
        yield {"mine": "still here"}
        seen["end"] = session.is_open

    app = FastAPI(lifespan=lifespan(session, granter, own=own))

    @app.get("/")
    async def mine(request: Request, tgm: SessionDep) -> str:
        assert tgm.is_open
        return str(request.state.mine)

    async with serving(app) as shop:
        assert (await shop.get("/")).json() == "still here"
    assert seen == {"begin": True, "end": True}
    assert not session.is_open


async def test_callbacks_and_handlers_end_before_what_the_application_opened(
    session: Session, granter: Granter, quick_path: Path
) -> None:
    resources = {"bot"}
    began, ended = [anyio.Event(), anyio.Event()], list[bool]()

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[None]:
        yield
        assert session.is_open
        resources.clear()

    async def use(number: int, _: Any) -> None:
        began[number].set()
        await anyio.sleep(0.1)
        ended.append("bot" in resources)

    receiver = Receiver(Verifier(CANARY_SECRET), SqliteInbox(quick_path / "inbox.db"))
    receiver.on("order_completed")(partial(use, 0))
    fulfillment = Fulfillment(granter, deliver=partial(use, 1), attention=partial(use, 1))
    async with serving(FastAPI(lifespan=lifespan(session, granter, receiver, fulfillment=fulfillment, own=own))):
        await receiver.handle(signed(body()), body())
        await fulfillment.take("pi_1", plan_id=1, member_id=42)
        for event in began:
            await event.wait()
    assert ended == [True, True]
    assert not session.is_open


async def test_what_you_opened_yourself_stays_open(session: Session) -> None:
    async with session, serving(FastAPI(lifespan=lifespan(session))):
        pass
    async with Session(1, "key") as other:
        async with serving(FastAPI(lifespan=lifespan(other))):
            pass
        assert other.is_open


async def test_mounted_applications_and_overrides_get_it_too(service: FakeService, session: Session) -> None:
    app, inner = FastAPI(lifespan=lifespan(session)), FastAPI()
    app.mount("/inner", inner)

    @inner.get("/bot")
    async def bot(tgm: SessionDep) -> str:
        return repr(tgm)

    async with serving(app) as shop:
        assert "open" in (await shop.get("/inner/bot")).json()
        inner.dependency_overrides[get_session] = lambda: "another"
        assert (await shop.get("/inner/bot")).json() == "'another'"
    assert not service.requests


async def test_without_the_lifespan_the_way_out_is_told(session: Session) -> None:
    app = FastAPI(lifespan=lifespan(session))

    @app.get("/")
    async def nothing(granter: GranterDep) -> None: ...

    bare = FastAPI()

    @bare.get("/")
    async def none(tgm: SessionDep) -> None: ...

    async with serving(app) as shop:
        with pytest.raises(UsageError, match="no Granter"):
            await shop.get("/")
    async with serving(bare) as shop:
        with pytest.raises(UsageError, match="no Session"):
            await shop.get("/")
    with pytest.raises(UsageError, match="takes a Session or a Project"):
        lifespan(session, Receiver(Verifier("secret")))  # type: ignore[arg-type]


async def test_an_inbox_of_another_bot_is_refused_before_an_entry_is_handled(
    session: Session, service: FakeService, quick_path: Path
) -> None:
    path = quick_path / "inbox"
    async with serving(FastAPI(lifespan=lifespan(session, receiver=Receiver(Verifier("s"), SqliteInbox(path))))):
        pass
    other = Session(service.bot_id + 1, service.api_key, transport=FakeTransport(service))
    receiver = Receiver(Verifier("s"), SqliteInbox(path))
    with pytest.raises(UsageError, match=f"belongs to bot {service.bot_id} at .*, and this is bot"):
        async with serving(FastAPI(lifespan=lifespan(other, receiver=receiver))):
            pass
    assert receiver.inbox is not None
    assert not receiver.inbox.is_open


@pytest.mark.parametrize("prefix", ["", "/hooks"])
async def test_the_receivers_route_takes_every_verb_and_redirects_nowhere(session: Session, prefix: str) -> None:
    sender, names = WebhookSender(), list[str]()
    receiver = Receiver(Verifier(sender.secret))

    @receiver.on("order_completed")
    async def note(event: Any) -> None:
        names.append(event.name)

    app = FastAPI(lifespan=lifespan(session, receiver=receiver))
    app.include_router(receiver_router(receiver, "/tgmembership"), prefix=prefix)
    async with serving(app) as shop:
        for path in (f"{prefix}/tgmembership", f"{prefix}/tgmembership/"):
            headers, body = sender.signed()
            assert (await shop.post(path, content=body, headers=headers)).status_code == 200
            assert (await shop.post(path, content=body)).status_code == 401
            assert (await shop.get(path)).headers["allow"] == "POST"
            assert (await shop.delete(path)).status_code == 405
    assert names == ["order_completed"] * 2
    assert "/tgmembership" not in str(app.openapi())


ANSWERS = [
    (errors.NotSent("x", method="addMember"), 503, False, None),
    (errors.RateLimited("x", code=429, retry_after=1.2), 503, False, "2"),
    (errors.StorageError("x"), 503, False, None),
    (errors.DeadlineExceeded("x"), 504, False, None),
    (errors.OutcomeUnknown("x", maybe_applied=True), 502, True, None),
    (errors.UnexpectedReply("x"), 502, False, None),
    (errors.ServerError("x", code=500, maybe_applied=True), 502, True, None),
    (errors.Unauthorized("x", code=401), 502, False, None),
    (errors.BadRequest("x", code=400), 400, False, None),
    (errors.NotFound("x", code=404), 404, False, None),
    (errors.Conflict("x", code=409), 409, False, None),
    (errors.GrantHeld("x"), 409, False, None),
    (errors.RefConflict("x"), 409, False, None),
    (errors.NotAuthentic("x"), 401, False, None),
    (errors.UsageError("x"), 500, False, None),
]


@pytest.mark.parametrize(
    ("error", "status", "maybe_applied", "wait"), ANSWERS, ids=[type(answer[0]).__name__ for answer in ANSWERS]
)
async def test_an_error_answers_with_its_status_and_keeps_its_message(
    error: TGMembershipError, status: int, *, maybe_applied: bool, wait: str | None
) -> None:
    app = FastAPI()
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with serving(app) as shop:
        answer = await shop.get("/")

    assert answer.status_code == status
    assert answer.json() == {"error": type(error).__name__, "maybe_applied": maybe_applied}
    assert answer.headers.get("retry-after") == wait


async def test_a_request_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.get("/pay/{ref}")
    async def fail(ref: str) -> None:
        msg = f"another plan stands under {ref}"
        raise errors.RefConflict(msg)

    async with serving(app) as shop:
        answer = await shop.get("/pay/a%0ACRITICAL%0D%1B%5B2J%E2%80%A8%C2%85b")

    assert answer.status_code == 409
    [record] = caplog.records
    hidden = r"a\nCRITICAL\r\x1b[2J\u2028\x85b"
    assert record.getMessage() == f"/pay/{hidden}: another plan stands under {hidden}"


@pytest.mark.parametrize(
    ("ref", "plan_id", "member_id"), [(" pi_1", 1, 42), ("pi\x1b_1", 1, 42), ("pi_1", 0, 42), ("pi_1", 1, -42)]
)
async def test_a_payment_with_wrong_data_answers_422(
    session: Session, granter: Granter, ref: str, plan_id: int, member_id: int
) -> None:
    app = FastAPI(lifespan=lifespan(session, granter))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.get("/")
    async def pay(ref: str, plan: int, member: int, granter: GranterDep) -> None:
        await granter.plan(ref, plan_id=plan, member_id=member)

    async with serving(app) as shop:
        answer = await shop.get("/", params={"ref": ref, "plan": plan_id, "member": member_id})
    assert (answer.status_code, answer.json()) == (422, {"error": "InvalidValue", "maybe_applied": False})


async def test_an_error_of_the_program_is_logged_with_frames_and_without_raw_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.get("/{name}")
    async def fail(name: str) -> None:
        raise UsageError(name)

    async with serving(app) as shop:
        assert (await shop.get("/a%0ACRITICAL%1B%5B2J")).status_code == 500
    text = caplog.text
    assert r"/a\nCRITICAL\x1b[2J: a\nCRITICAL\x1b[2J" in text
    assert "raise UsageError(name)" in text
    assert "\nCRITICAL" not in text
    assert "\x1b" not in text


def background_app(session: Session, *, handled: bool) -> FastAPI:
    app = FastAPI(lifespan=lifespan(session))
    if handled:
        app.add_exception_handler(TGMembershipError, answer_error)

    async def fails(error: Exception) -> None:
        raise error

    @app.get("/package")
    async def package(background: BackgroundTasks) -> str:
        background.add_task(fails, errors.RefConflict("this is a\nplan of others"))
        return "sent"

    @app.get("/other")
    async def other(background: BackgroundTasks) -> str:
        background.add_task(fails, LookupError("a bug"))
        return "sent"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "begun"
            msg = "in the middle"
            raise errors.NotSent(msg)

        return StreamingResponse(chunks())

    @app.get("/endpoint")
    async def endpoint() -> None:
        msg = "before the response"
        raise errors.NotSent(msg)

    return app


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("mounted", [True, False])
async def test_an_error_of_a_background_task_is_one_line_of_the_log_and_nothing_else(
    session: Session, caplog: pytest.LogCaptureFixture, *, handled: bool, mounted: bool
) -> None:
    app = background_app(session, handled=handled)
    if mounted:
        inner, app = app, FastAPI(lifespan=lifespan(session))
        app.mount("/inner", inner)
    path = "/inner/package" if mounted else "/package"
    async with on_uvicorn(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as shop:
        for _ in range(2):
            answer = await shop.get(path)
            assert (answer.status_code, answer.json()) == (200, "sent")
    assert [record.getMessage() for record in caplog.records] == 2 * [
        rf"{path}: a background task failed: this is a\nplan of others"
    ]


@pytest.mark.parametrize("prefix", ["", "/inner"])
async def test_other_exceptions_reach_the_server_as_before(
    session: Session, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    app = background_app(session, handled=False)
    app.mount("/inner", background_app(session, handled=False))
    async with (
        on_uvicorn(app) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as shop,
    ):
        assert (await shop.get(f"{prefix}/other")).json() == "sent"
        with pytest.raises(httpx.RemoteProtocolError):
            await shop.get(f"{prefix}/stream")
        assert (await shop.get(f"{prefix}/endpoint")).status_code == 500
    raised = [record.exc_info[1] for record in caplog.records if record.exc_info]
    single = [error.exceptions[0] if isinstance(error, ExceptionGroup) else error for error in raised]  # old Starlette
    assert list(map(type, single)) == [LookupError, errors.NotSent, errors.NotSent]


async def test_a_refusal_of_the_service_comes_through(service: FakeService, session: Session) -> None:
    service.inject(Fault("error", method="addMember", status=404))
    app = FastAPI(lifespan=lifespan(session))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.get("/")
    async def add(tgm: SessionDep) -> None:
        await tgm.add_member(1, 42)

    async with serving(app) as shop:
        assert (await shop.get("/")).json() == {"error": "NotFound", "maybe_applied": False}


async def test_a_payment_that_is_taken_ends_as_a_link(service: FakeService, session: Session, granter: Granter) -> None:
    links: list[str | None] = []
    sent = anyio.Event()

    async def deliver(grant: Grant) -> None:
        links.append(grant.token.link if grant.token else None)
        sent.set()

    async def ask(grant: Grant) -> None:
        raise AssertionError(grant)

    fulfillment = Fulfillment(granter, deliver=deliver, attention=ask)
    app = FastAPI(lifespan=lifespan(session, fulfillment=fulfillment))

    @app.post("/payments/{ref}")
    async def paid(ref: str, fulfillment: FulfillmentDep, granter: GranterDep, tgm: TGMDep) -> str:
        assert fulfillment.granter is granter
        assert tgm is session
        return (await fulfillment.take(ref, plan_id=1, member_id=42)).status

    async with serving(app) as shop:
        assert (await shop.post("/payments/pi_1")).json() == "planned"
        with anyio.fail_after(10):
            await sent.wait()
    assert links == [token.link for token in service.tokens]
    assert (session.is_open, granter.is_open, fulfillment.is_open) == (False, False, False)


async def test_only_who_has_access_comes_in(session: Session, service: FakeService) -> None:
    service.populate()
    member = service.subscribers[0]
    app = FastAPI(lifespan=lifespan(session))

    def logged_in(user: int) -> int:
        return user

    @app.get("/lesson")
    async def lesson(access: Annotated[Access, Depends(require_access(user_id=logged_in))]) -> list[int | str]:
        return sorted(access.plans, key=str)

    @app.get("/other", dependencies=[Depends(require_access(99, user_id=logged_in))])
    async def other() -> None: ...

    async with serving(app) as shop:
        assert (await shop.get(f"/lesson?user={member.user_id}")).json() == [member.plan_id]
        assert (await shop.get("/lesson?user=1")).status_code == 403
        assert (await shop.get(f"/other?user={member.user_id}")).status_code == 403


def test_what_is_missing_is_told(session: Session, granter: Granter) -> None:
    request = Request({"type": "http", "state": {}})
    for get, why in ((get_fulfillment, "no Fulfillment"), (get_access, "no AccessCheck")):
        with pytest.raises(UsageError, match=why):
            get(request)

    async def nothing(_: Grant) -> None: ...

    fulfillment = Fulfillment(granter, deliver=nothing, attention=nothing)
    with pytest.raises(UsageError, match="another Granter"):
        lifespan(session, Granter(session, MemoryLedger()), fulfillment=fulfillment)
    with pytest.raises(UsageError, match="must be a Fulfillment"):
        lifespan(session, granter, fulfillment=granter)  # type: ignore[arg-type]  # callers are not all typed
