"""Settings of a training: method, objective, trainer, and what differs by model family."""
