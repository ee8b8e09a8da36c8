"""Access control of the desk: checks of token, cookie, form, Host and Origin, and the headers of each answer.

A browser sends requests that other sites make it send. So each request is checked, before anything is read:

- `Host` names the address that the desk is bound to, so that a name of another site that resolves to it (DNS
  rebinding) is refused;
- the cookie proves that the browser once had the token of the printed URL. Cookies of one host are sent to all of its
  ports, so the cookie belongs to a path that no other server knows;
- a POST comes from a page of the desk, as `Origin`, `Sec-Fetch-Site` or `Referer` show;
- a form carries a value that belongs to this cookie, path and content, and is accepted once.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tgmembership_async.errors import UsageError
from tgmembership_async.values.secret import Secret

HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""The headers of every answer."""
COOKIE: Final = "tgmembership_desk"
_FORM_LIFETIME: Final = 3_600
_LONGEST_FORM: Final = 50_000  # bytes: a reason and a token of 1,000 characters each, and a ref, percent-encoded
_BITS: Final = 32  # bytes of a random value


class Refused(Exception):
    """A request that is answered with `status` and a sentence, and changes nothing."""

    def __init__(self, text: str, status: int = 403) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


class Guard:
    """Authorizes the requests of one owner.

    With `token`, only a browser that opened the URL with this token is answered; without, the application has
    authenticated the request already. With `host`, the Host header must be this one. `secret` signs cookies and forms:
    give the same one to each of several processes that serve one desk.
    """

    def __init__(
        self,
        *,
        token: Secret | None = None,
        host: str | None = None,
        secret: Secret | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if secret is not None and len(secret.reveal()) < _BITS:
            msg = f"the secret of a desk must have at least {_BITS} characters: secrets.token_urlsafe() returns one"
            raise UsageError(msg)
        self._token = token
        self._host = host
        self._key = secrets.token_bytes(_BITS) if secret is None else secret.reveal().encode()
        self._clock = clock
        self._used: dict[str, int] = {}

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return the application behind this guard."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return
            request, cookie = Request(scope), None
            try:
                answer: ASGIApp | None = self._answer(request)
                if answer is None:
                    request.state.session, cookie = self._session(request)
                    answer = app
            except Refused as refused:
                answer = PlainTextResponse(f"{refused.text}\n", refused.status)
            await answer(scope, receive, _with_headers(send, cookie))

        return guarded

    def form_value(self, request: Request, content: str) -> str:
        """Return the hidden value of a form that is posted once, with this content, to the path of the request."""
        expires, nonce = int(self._clock()) + _FORM_LIFETIME, secrets.token_urlsafe(16)
        return f"{expires}.{nonce}.{self._form_mac(request, str(expires), nonce, content)}"

    async def form(self, request: Request, content: Callable[[Mapping[str, str]], str]) -> dict[str, str]:
        """Return the fields of a form, and use up its value. Raises Refused if the form is not one of ours, or old."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_FORM:
                msg = "The form is too long."
                raise Refused(msg, 413)
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        expires, _, rest = fields.get("csrf", "").partition(".")
        nonce, _, mac = rest.partition(".")
        now = self._clock()
        self._used = {used: until for used, until in self._used.items() if until > now}
        wanted = self._form_mac(request, expires, nonce, content(fields))
        if not _equal(mac, wanted) or int(expires) <= now or nonce in self._used:
            msg = "This form is not valid, was sent before, or is older than an hour. Nothing was changed."
            raise Refused(msg)
        self._used[nonce] = int(expires)
        return fields

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that brings the token, and None for one that the desk answers."""
        if self._host is not None and request.headers.getlist("host") != [self._host]:
            msg = "This desk does not answer under this name."
            raise Refused(msg)
        if request.method == "POST":
            _check_source(request)
        given = request.query_params.get("token")
        if self._token is None or given is None or request.method != "GET":
            return None
        if not _equal(given, self._token.reveal()):
            msg = "This is not the token of this desk. Open the URL that `tgmembership desk` printed last."
            raise Refused(msg)
        answer = RedirectResponse(f"{root_of(request)}/", 303)
        answer.headers["set-cookie"] = self._new_cookie(request)[1]
        return answer

    def _session(self, request: Request) -> tuple[str, str | None]:
        """Return the session of the request, and the cookie to set if it is new."""
        session, _, mac = request.cookies.get(COOKIE, "").partition(".")
        if session and _equal(mac, self._mac("session", session)):
            return session, None
        if self._token is not None:
            msg = "Open the URL that `tgmembership desk` printed: this browser has not shown its token."
            raise Refused(msg)
        if request.method == "POST":
            msg = "This form was not opened in this browser. Nothing was changed."
            raise Refused(msg)
        return self._new_cookie(request)

    def _new_cookie(self, request: Request) -> tuple[str, str]:
        session = secrets.token_urlsafe(_BITS)
        secure = "; Secure" if request.url.scheme == "https" else ""
        value = f"{session}.{self._mac('session', session)}"
        return session, f"{COOKIE}={value}; Path={root_of(request)}/; HttpOnly; SameSite=Strict{secure}"

    def _form_mac(self, request: Request, expires: str, nonce: str, content: str) -> str:
        return self._mac("form", request.state.session, request.url.path, expires, nonce, content)

    def _mac(self, *parts: str) -> str:
        # Each part with its length: no two lists of parts are the same text.
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def root_of(request: Request) -> str:
    """Return the path that the desk is mounted at, without a slash at its end."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def _check_source(request: Request) -> None:
    """Refuse a POST that no page of this server has sent.

    Under `Referrer-Policy: no-referrer` browsers send `Origin: null` with a form, and `Sec-Fetch-Site`, which no page
    can set, shows the source. Browsers send it to https and to loopback.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    source = request.headers.get("referer", "") if origin == "null" else origin
    is_ours = urlsplit(source).netloc == request.headers.get("host")
    if site not in (None, "same-origin") or not (is_ours if source else site == "same-origin"):
        msg = "This form was sent by another site. Nothing was changed."
        raise Refused(msg)


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


def _with_headers(send: Send, cookie: str | None) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            if cookie is not None:
                headers.append("set-cookie", cookie)
        await send(message)

    return sending
