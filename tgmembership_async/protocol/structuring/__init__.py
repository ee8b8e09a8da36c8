"""Structure JSON results as typed values, for sessions, webhook events and the command line."""
