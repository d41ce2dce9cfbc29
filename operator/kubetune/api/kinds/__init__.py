"""A folder for each kind, with its spec and its status; ``table.py`` has what is derived from them."""
