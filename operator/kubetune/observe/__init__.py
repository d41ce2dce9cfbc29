"""What is known: objects from the watches, and values built from them for decide."""
