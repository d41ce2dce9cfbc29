"""Runs in a project of Cloudera Machine Learning; ``cml_entry.py`` starts them."""
