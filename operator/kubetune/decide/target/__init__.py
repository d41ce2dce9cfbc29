"""Targets: when they are Ready, where runs are, what follows when one refuses or is away."""
