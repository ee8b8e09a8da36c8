"""Storage in a SQLite file with one writer thread; used by the SQLite ledger and inbox."""
