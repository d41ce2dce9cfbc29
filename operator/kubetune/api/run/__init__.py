"""What the operator hands to a run, and what a run leaves behind."""
