"""Models: found, checked, loaded, given adapters, merged."""
