"""Misspelt names and options are errors in mypy and pyright: both also report an ignore comment without an error."""

# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedImport=false

from tgmembership_async import Sesion, Session  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.grants import Grantr  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.testing import FakeServr  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.transport import HttpxTransprt  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.webhooks import SqliteInbx  # type: ignore[attr-defined]  # noqa: F401


def misspell_options() -> None:
    Session.from_env(max_conections=16)  # type: ignore[call-arg]
    Session.from_env(max_connections="16")  # type: ignore[arg-type]
    Session.from_env().with_options(deadlin=5)  # type: ignore[call-arg]
    Session.from_env().with_options(max_connections=16)  # type: ignore[call-arg]
