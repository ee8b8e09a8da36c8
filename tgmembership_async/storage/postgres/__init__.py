"""Storage in PostgreSQL, for any number of processes; used by the PostgreSQL ledger, inbox and command line."""
