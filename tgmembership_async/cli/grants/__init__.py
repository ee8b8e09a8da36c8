"""The commands `tgmembership grants` and `tgmembership grant`, imported by `cli.root` only."""
