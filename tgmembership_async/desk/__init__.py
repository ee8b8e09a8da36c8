"""The desk: pages in the browser for what only a person can decide, for the owner of a ledger and an inbox.

`desk_app` returns the application, `Guard` the checks in front of it. `tgmembership desk` serves it on loopback, and
`ext.fastapi.desk_router` mounts it behind an application's own authentication.
"""

from tgmembership_async.desk.app import desk_app
from tgmembership_async.desk.guard import Guard

__all__ = ["Guard", "desk_app"]
