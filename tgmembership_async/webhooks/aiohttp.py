"""The adapter from aiohttp's server to the Receiver, for example next to aiogram's route. Loaded on use."""

from aiohttp import web

from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer, DeliveryEndpoint, in_time
from tgmembership_async.webhooks.encodings import GZIP, HEADER, coding_of
from tgmembership_async.webhooks.headers import HeadersLike, flat


async def respond(receiver: DeliveryEndpoint, request: web.Request) -> web.Response:
    """Return the response to a request. At most `max_body` bytes of the body are kept."""
    answer = receiver.before_body(request.method, request.headers.get("content-length"))
    if answer is None:
        body = await in_time(_read(request, receiver.max_body), receiver.body_timeout)
        answer = body if isinstance(body, Answer) else await receiver.handle(_headers(request), body)
    response = web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    if answer is answers.TOO_SLOW:
        response.force_close()  # else the server would wait for the rest of the body
    return response


def _headers(request: web.Request) -> HeadersLike:
    """Return the headers that describe the body as it is now: aiohttp has decoded gzip."""
    if coding_of(request.raw_headers) != GZIP:
        return request.raw_headers
    return [pair for pair in flat(request.raw_headers) if pair[0] != HEADER]


async def _read(request: web.Request, limit: int) -> bytes | Answer:
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit:
                return answers.TOO_LARGE
    except (ConnectionError, web.RequestPayloadError):
        return answers.CUT_SHORT
    return bytes(body)
