"""Checks that every ledger and payment adapter must pass, as `LEDGER_CHECKS` and `PAYMENT_CHECKS` of `testing`."""
