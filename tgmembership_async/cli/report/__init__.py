"""The command `tgmembership report`, imported by `cli.root` only."""
