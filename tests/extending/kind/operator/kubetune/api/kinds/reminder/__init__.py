"""Reminder: says when a Dataset has grown large enough."""
