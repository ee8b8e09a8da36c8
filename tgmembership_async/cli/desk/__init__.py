"""The command `tgmembership desk`, imported by `cli.root` only."""
