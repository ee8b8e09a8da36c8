"""The command `tgmembership doctor`, imported by `cli.root` only."""
