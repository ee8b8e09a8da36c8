"""The inboxes, one module for each database; users import them from `tgmembership_async.webhooks`."""
