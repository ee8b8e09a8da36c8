"""A proxy that injects network faults. Users import `ChaosProxy` from `tgmembership_async.testing`."""
