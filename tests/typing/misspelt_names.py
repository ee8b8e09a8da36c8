"""Misspelt names are errors in mypy and pyright: each line here has one, and both complain of a comment too many."""

# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedImport=false

from tgmembership_async import Sesion  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.grants import Grantr  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.testing import FakeServr  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.transport import HttpxTransprt  # type: ignore[attr-defined]  # noqa: F401
from tgmembership_async.webhooks import SqliteInbx  # type: ignore[attr-defined]  # noqa: F401
