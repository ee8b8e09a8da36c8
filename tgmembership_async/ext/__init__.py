"""Integrations with other frameworks: one module for each, loaded on use, with an extra of the same name."""
