"""Tables in PostgreSQL for any number of processes, for its ledger, its inbox and the command line."""
