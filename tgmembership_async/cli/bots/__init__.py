"""Profiles of several bots for the command line: the file that has them, and the command `tgmembership bots`."""
