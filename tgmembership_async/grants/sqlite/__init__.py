"""The ledger in a SQLite file; users import `SqliteLedger` from `tgmembership_async.grants`."""
