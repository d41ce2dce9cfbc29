"""Settings in force: what wins, what contradicts, and what would change nothing."""
