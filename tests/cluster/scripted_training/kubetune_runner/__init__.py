"""Stands in for the runner: inspections are real, trainings do what a test tells them."""
