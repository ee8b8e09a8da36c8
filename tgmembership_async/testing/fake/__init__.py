"""The fake service, in process and over HTTP. Users import it from `tgmembership_async.testing`."""
