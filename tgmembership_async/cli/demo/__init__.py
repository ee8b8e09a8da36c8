"""The command `tgmembership demo`, imported by `cli.root` only."""
