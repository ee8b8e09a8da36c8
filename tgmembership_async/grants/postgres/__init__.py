"""The ledger in PostgreSQL; users import `PostgresLedger` from `tgmembership_async.grants`."""
