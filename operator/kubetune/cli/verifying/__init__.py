"""What ``kubetune verify`` compares: a registered version with the statement beside it."""
