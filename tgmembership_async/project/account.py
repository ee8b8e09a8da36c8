"""The account of a project, checked, and how API v2 writes its replies."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Final, cast

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.account_numbers import number_of_project
from tgmembership_async.protocol.endpoints import check_uuid
from tgmembership_async.protocol.envelope import Dialect, Envelope, NoEnvelope, read_code, read_text
from tgmembership_async.protocol.wire import Account
from tgmembership_async.settings import checked_gateway_503, origin, secret_from
from tgmembership_async.values.secret import Secret, Target, hides_arguments

BASE_URL: Final = "https://api.botsubscription.com"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_SUCCESSES: Final = range(200, 300)


@frozen
class ProjectAccount(Account):
    """The account of a project. The token is in a header, which only the transport sees."""

    client: ClassVar[str] = "Project"

    project_id: str
    token: Secret

    @property
    def number(self) -> int:
        """Return a number made of the project's id, beyond all bot ids."""
        return number_of_project(self.project_id)

    @property
    def url_template(self) -> str:
        """Return the path above methods, with a name in place of the id."""
        return f"{self.prefix}{self.dialect.path}/projects/{{project_id}}"

    @cached_property
    def secret_fields(self) -> tuple[tuple[bytes, Target], ...]:
        """Return the header with the token."""
        return ((b"authorization", Target(f"Bearer {self.token.reveal()}".encode())),)

    def url(self, path: str) -> str:
        """Return the URL, which contains no credentials."""
        return f"{self.base_url}{self.dialect.path}/projects/{self.project_id}/{path}"

    @cached_property
    def _path(self) -> Target:
        return Target(f"{self.prefix}{self.dialect.path}/projects/{self.project_id}/".encode())

    @property
    def _masks(self) -> Mapping[str, str]:
        return {self.token.reveal(): "***"}


@hides_arguments
def account(project_id: object, token: object, base_url: object, gateway_503: object) -> ProjectAccount:
    """Return the account, or raise UsageError; no error shows the token."""
    value = token.reveal() if isinstance(token, Secret) else token
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        msg = "token must be a str or a Secret of visible ASCII characters, without line breaks around it"
        raise UsageError(msg)
    scheme, host, port, prefix = origin(base_url)
    return ProjectAccount(
        *(scheme, host, port, prefix, check_uuid("project_id", project_id), Secret(value)),
        gateway_503=checked_gateway_503(gateway_503),
        dialect=V2,
    )


@hides_arguments
def from_environment(prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments in PROJECT_ID, PROJECT_TOKEN or PROJECT_TOKEN_FILE, and PROJECT_BASE_URL, after `prefix`."""
    project_id = environ.get(f"{prefix}PROJECT_ID", "").strip()
    token = f"{prefix}PROJECT_TOKEN"
    if not project_id and not environ.get(token) and not environ.get(f"{token}_FILE"):
        msg = f"set {prefix}PROJECT_ID to the id of your project, and {token} or {token}_FILE to its token"
        raise UsageError(msg)
    if not project_id:
        msg = f"set {prefix}PROJECT_ID to the id of your project"
        raise UsageError(msg)
    found: dict[str, Any] = {"project_id": project_id, "token": secret_from(token, environ)}
    if environ.get(f"{prefix}PROJECT_BASE_URL"):
        found["base_url"] = environ[f"{prefix}PROJECT_BASE_URL"].strip()
    return found


def _read(reply: dict[str, Any]) -> Envelope | NoEnvelope:
    """Read `{ok, code, request_id, data}` or `{ok: false, code, error: {error_code or code, message}}`.

    One documented sample has no `ok`: there a code from 200 to 299 beside `data` counts as true.
    """
    ok = reply.pop("ok", None)
    code = read_code(reply.pop("code", None))
    given = reply.pop("error", None)
    error = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    if ok is None and code is not None:
        ok = code in _SUCCESSES and "data" in reply if not error else False
    if not isinstance(ok, bool):
        return NoEnvelope("'ok' is not true or false")
    if code is None and not ok:
        return NoEnvelope("'code' is not a number")
    names = (error.get("error_code"), error.get("code"))
    error_code = next((name for name in names if isinstance(name, str) and name), None)
    if "retry_after" in error:
        reply["retry_after"] = error["retry_after"]
    return Envelope(
        ok=ok,
        code=code,
        result=reply.pop("data", None),
        description=read_text(error.get("message") or (given if isinstance(given, str) else None)),
        request_id=read_text(reply.pop("request_id", None)),
        extra=reply,
        error_code=read_text(error_code),
    )


V2: Final = Dialect(_read, frozenset({204, 304}), path="/v2")
"""Replies of API v2 (documented)."""
