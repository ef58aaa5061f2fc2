"""Scores of predictions, and what a difference between two runs is worth."""
