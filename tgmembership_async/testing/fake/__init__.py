"""The fake service, in process and over HTTP; users import it from `tgmembership_async.testing`."""
