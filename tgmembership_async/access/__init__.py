"""Who may come in: a cached answer to "does this user have access?", for filters and dependencies."""

from tgmembership_async.access.check import Access, AccessCheck

__all__ = ["Access", "AccessCheck"]
