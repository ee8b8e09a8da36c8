"""`ext.otel`: a span for each call, its attempts as events, metrics, and the key in none of it."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tgmembership_async import DeadlineExceeded, OutcomeUnknown, RetryPolicy, Session, Unauthorized
from tgmembership_async.ext.otel import OpenTelemetry
from tgmembership_async.testing import FakeService, FakeTransport, Fault
from tgmembership_async.testing import serve as serve_fake

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class Observed:
    """Providers of our own, and what they were told."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.metering = MeterProvider([self._reader])
        self.options = OpenTelemetry(self.tracing, self.metering).options()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        told: Any = self._reader.get_metrics_data()
        return {
            metric.name: [(dict(point.attributes), point) for point in metric.data.data_points]
            for metric in told.resource_metrics[0].scope_metrics[0].metrics
        }

    def everything(self) -> str:
        told: Any = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + str(told.to_json())

    def close(self) -> None:
        self.tracing.shutdown()
        self.metering.shutdown()


@pytest.fixture
def observed() -> Iterator[Observed]:
    observed = Observed()
    yield observed
    observed.close()


@pytest.fixture
def service() -> FakeService:
    return FakeService(api_key=CANARY_KEY)


def session(service: FakeService, observed: Observed, **options: Any) -> Session:
    transport = FakeTransport(service)
    return Session(**service.session_options(), transport=transport, **observed.options, **options)


def outcomes(span: ReadableSpan) -> list[Any]:
    return [dict(event.attributes or {})["tgmembership.outcome"] for event in span.events]


def test_a_call_is_a_span_and_its_attempts_are_events(run: Run, service: FakeService, observed: Observed) -> None:
    service.inject(Fault("throttled", retry_after=0, count=1), Fault("reset", skip=1, count=1))

    async def scenario() -> None:
        async with session(service, observed, retry=RetryPolicy(transient_base=0.001)) as tg:
            await tg.get_plans()

    run(scenario)

    (span,) = observed.spans
    assert (span.name, span.kind, span.status.status_code) == ("getPlans", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "api.tgmembership.com",
        "url.template": "/bot{bot_id}/{api_key}/getPlans",
        "tgmembership.bot_id": service.bot_id,
        "tgmembership.safety": "safe",
        "tgmembership.attempts": 3,
        "tgmembership.outcome": "done",
    }
    assert outcomes(span) == ["turned away", "unknown", "done"]
    metrics = observed.metrics()
    ((labels, duration),) = metrics["tgmembership.client.call.duration"]
    assert labels == {"tgmembership.method": "getPlans", "tgmembership.outcome": "done"}
    assert duration.count == 1
    assert {
        labels["tgmembership.outcome"]: point.value for labels, point in metrics["tgmembership.client.attempts"]
    } == {
        "turned away": 1,
        "unknown": 1,
        "done": 1,
    }


@pytest.mark.parametrize(
    ("fault", "error", "outcome", "maybe_applied"),
    [
        (Fault("reset", when="after"), OutcomeUnknown, "unknown", True),
        (Fault("error", status=500), OutcomeUnknown, "unknown", True),
        (Fault("error", status=401), Unauthorized, "refused", False),
        (Fault("latency", seconds=5), OutcomeUnknown, "cancelled", True),
    ],
    ids=["reset", "500", "401", "deadline"],
)
def test_a_call_that_failed_says_what_may_have_happened(
    run: Run,
    service: FakeService,
    observed: Observed,
    fault: Fault,
    error: type[Exception],
    outcome: str,
    *,
    maybe_applied: bool,
) -> None:
    service.inject(fault)

    async def scenario() -> None:
        async with session(service, observed, deadline=0.5) as tg:
            with pytest.raises(error):
                await tg.add_member(1, 42)

    run(scenario)

    (span,) = observed.spans
    attributes = dict(span.attributes or {})
    assert span.status.status_code is StatusCode.ERROR
    assert (attributes["error.type"], attributes["tgmembership.maybe_applied"]) == (outcome, maybe_applied)
    assert outcomes(span) == [outcome]


@pytest.mark.parametrize("chain", ["middleware", "attempt_middleware"])
@pytest.mark.parametrize(("when", "outcome"), [("before", "not sent"), ("after", "unknown")])
def test_an_exception_of_another_middleware_is_no_cancellation(
    run: Run, service: FakeService, observed: Observed, chain: str, when: str, outcome: str
) -> None:
    async def broken(request: Any, call_next: Any) -> Any:
        if when == "after":
            await call_next(request)
        raise LookupError

    observed.options[chain].append(broken)

    async def scenario() -> None:
        async with session(service, observed) as tg:
            with pytest.raises((LookupError, OutcomeUnknown)):
                await tg.add_member(1, 42)

    run(scenario)

    (span,) = observed.spans
    attributes = dict(span.attributes or {})
    assert attributes["tgmembership.outcome"] == outcome
    assert attributes["tgmembership.maybe_applied"] is (when == "after")
    assert set(outcomes(span)) <= {outcome, "done"}


def test_a_call_that_never_left_has_no_attempt(run: Run, service: FakeService, observed: Observed) -> None:
    async def scenario() -> None:
        async with session(service, observed, max_connections=1) as tg, anyio.create_task_group() as group:
            service.inject(Fault("latency", seconds=60, count=1))
            group.start_soon(tg.get_plans)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceeded):
                await tg.with_options(deadline=0.05).count_users()
            group.cancel_scope.cancel()

    run(scenario)

    assert {span.name: len(span.events) for span in observed.spans} == {"countUsers": 0, "getPlans": 1}


def test_no_url_with_the_key_with_the_instrumentation_of_httpx_underneath(
    run: Run, service: FakeService, observed: Observed
) -> None:
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=observed.tracing, meter_provider=observed.metering)
    service.inject(Fault("error", method="getPlans", count=1))
    try:
        with serve_fake(service) as server:

            async def scenario() -> None:
                async with Session(**server.session_options(), **observed.options) as tg:
                    await tg.get_plans()
                    await tg.add_member(1, 42)

            run(scenario)
    finally:
        instrumentor.uninstrument()

    ours = [span for span in observed.spans if span.name in ("getPlans", "addMember")]
    below = [span for span in observed.spans if span not in ours]
    assert len(ours) == 2
    assert len(below) == 3
    assert {span.parent and span.parent.span_id for span in below} == {span.context.span_id for span in ours}
    assert f"bot{service.bot_id}/-/getPlans" in observed.everything()
    assert CANARY_KEY not in observed.everything()
