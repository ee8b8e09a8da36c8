"""The commands about members: with `--project ID` for a project of API v2, otherwise for the bot."""
