"""The command `tgmembership demo`; only `cli.root` imports it."""
