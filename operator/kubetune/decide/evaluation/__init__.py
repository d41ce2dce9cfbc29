"""Evaluation: its states in order, its candidates, the verdict, its deletion."""
