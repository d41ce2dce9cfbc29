"""A runner that trains nothing: it ends, waits or fails as its plan says."""
