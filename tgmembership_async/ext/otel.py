"""OpenTelemetry: a span for each call, with its attempts as events, and metrics. No attribute contains the API key.

Pass both to a Session as options:

    Session.from_env(**OpenTelemetry().options())
"""

from time import perf_counter
from typing import Any, Final

from tgmembership_async.extras import missing

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as _error:
    raise missing(__name__, "otel", _error) from None

from tgmembership_async.middleware import Next, verdict
from tgmembership_async.protocol.outcome import Outcome, TransportFailure
from tgmembership_async.protocol.wire import BotAccount, Request, Response
from tgmembership_async.version import __version__

_NAME: Final = "tgmembership_async"
CANCELLED: Final = "cancelled"
"""The outcome of a call that was cancelled by its caller or its deadline."""


class OpenTelemetry:
    """Two middlewares for a Session, with the global providers of OpenTelemetry or with your own.

    The span of a call is named after the method and lasts until the result, including backoff. Its attributes are
    `url.template`, `server.address`, `http.request.method`, the last `http.response.status_code`,
    `tgmembership.attempts`, and `tgmembership.outcome`: done, refused, turned away, not sent, unknown or cancelled.
    `tgmembership.maybe_applied` tells whether a failed call may have taken effect. Each attempt is an event.

    The metrics are `tgmembership.client.call.duration`, in seconds, and `tgmembership.client.attempts`, each by method
    and outcome.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._duration = meter.create_histogram(
            "tgmembership.client.call.duration", "s", "Duration of calls, with all their attempts."
        )
        self._attempts = meter.create_counter("tgmembership.client.attempts", "{attempt}", "Requests that were tried.")

    def options(self) -> dict[str, Any]:
        """Return the options of a Session: `Session(..., **OpenTelemetry().options())`."""
        return {"middleware": [self.call], "attempt_middleware": [self.attempt]}

    async def call(self, request: Request, call_next: Next) -> Response:
        """Wrap a call in a span. For the `middleware` of a Session."""
        began = perf_counter()
        with self._tracer.start_as_current_span(
            request.method,
            kind=SpanKind.CLIENT,
            attributes=_attributes(request),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            outcome: Outcome | str = CANCELLED
            try:
                response = await call_next(request)
                outcome, _ = verdict(response, request)
                span.set_attribute("http.response.status_code", response.status)
            except TransportFailure as failure:
                outcome, _ = verdict(failure, request)
                raise
            except Exception:
                outcome = _after_exception(sent=request.progress.attempts > 0)
                raise
            finally:
                self._end(span, request, str(outcome), perf_counter() - began)
            return response

    async def attempt(self, request: Request, call_next: Next) -> Response:
        """Add an attempt to the span of its call. For the `attempt_middleware` of a Session."""
        began, attributes = perf_counter(), dict[str, AttributeValue]()
        attempts = request.progress.attempts
        outcome: Outcome | str = CANCELLED
        try:
            response = await call_next(request)
            outcome, _ = verdict(response, request)
            attributes["http.response.status_code"] = response.status
        except TransportFailure as failure:
            outcome, _ = verdict(failure, request)
            raise
        except Exception:
            outcome = _after_exception(sent=request.progress.attempts > attempts)
            raise
        finally:
            attributes |= {
                "tgmembership.attempt": request.attempt,
                "tgmembership.outcome": str(outcome),
                "seconds": perf_counter() - began,
            }
            trace.get_current_span().add_event("attempt", attributes)
            self._attempts.add(1, _labels(request, str(outcome)))
        return response

    def _end(self, span: Span, request: Request, outcome: str, seconds: float) -> None:
        span.set_attribute("tgmembership.attempts", request.progress.attempts)
        span.set_attribute("tgmembership.outcome", outcome)
        if outcome != Outcome.DONE:
            span.set_attribute("error.type", outcome)
            span.set_attribute("tgmembership.maybe_applied", _maybe_applied(request, outcome))
            span.set_status(Status(StatusCode.ERROR, outcome))
        self._duration.record(seconds, _labels(request, outcome))


def _after_exception(*, sent: bool) -> Outcome:
    """Return the outcome of what another middleware has ended with an exception of its own."""
    return Outcome.UNKNOWN if sent else Outcome.NOT_SENT


def _attributes(request: Request) -> dict[str, AttributeValue]:
    account = request.account
    attributes: dict[str, AttributeValue] = {
        "http.request.method": request.verb,
        "server.address": account.host,
        "url.template": f"{account.url_template}/{request.method}",
        "tgmembership.safety": str(request.safety),
    }
    if isinstance(account, BotAccount):
        attributes["tgmembership.bot_id"] = account.bot_id
    return attributes if account.port is None else {**attributes, "server.port": account.port}


def _labels(request: Request, outcome: str) -> dict[str, AttributeValue]:
    return {"tgmembership.method": request.method, "tgmembership.outcome": outcome}


def _maybe_applied(request: Request, outcome: str) -> bool:
    return request.safety != "safe" and (request.progress.unsettled or outcome == Outcome.UNKNOWN)
