"""A folder for each kind, with its spec and its status; ``table.py`` lists them."""
