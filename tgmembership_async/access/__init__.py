"""Cached access checks of users, for bot filters and web dependencies."""

from tgmembership_async.access.check import Access, AccessCheck

__all__ = ["Access", "AccessCheck"]
