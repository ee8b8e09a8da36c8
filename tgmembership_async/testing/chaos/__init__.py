"""The proxy that injects TCP faults; users import `ChaosProxy` from `tgmembership_async.testing`."""
