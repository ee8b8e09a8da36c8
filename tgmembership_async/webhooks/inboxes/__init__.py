"""The inboxes in databases, one module for each database. Users import them from `tgmembership_async.webhooks`."""
