"""Checks that every ledger must pass. Users import `LEDGER_CHECKS` from `tgmembership_async.testing`."""
