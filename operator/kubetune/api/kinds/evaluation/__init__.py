"""Evaluation: candidates measured on the same rows."""
