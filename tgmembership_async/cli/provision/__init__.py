"""The command `tgmembership provision`; other commands share its member reader and progress bar."""
