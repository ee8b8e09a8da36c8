"""The fake of API v2: one project with users, plans, memberships, balances, payment requests and webhooks."""
