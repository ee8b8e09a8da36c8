"""JSON results into typed values, for `protocol`, sessions, webhook events and the command line."""
