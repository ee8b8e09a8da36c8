"""The command `tgmembership webhook`, imported by `cli.root` only."""
