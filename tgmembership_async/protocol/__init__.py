"""The protocol of the service: requests, replies, outcomes and retries. Pure: no I/O, and the clock is an argument."""
