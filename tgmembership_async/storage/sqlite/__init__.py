"""Tables in a SQLite file with one writer thread, for the SQLite ledger and inbox only."""
