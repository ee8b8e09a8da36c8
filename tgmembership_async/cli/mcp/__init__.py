"""The command `tgmembership mcp`, imported by `cli.root` only. Only `server` imports the library `mcp`."""
