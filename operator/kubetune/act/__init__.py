"""Effects: actions run in order, each repeatable, then one status write."""
