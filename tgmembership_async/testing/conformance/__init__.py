"""Checks for any ledger; users import `LEDGER_CHECKS` from `tgmembership_async.testing`."""
