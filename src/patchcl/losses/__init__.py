"""Losses, pseudo-labels, and the schedules of their weights."""
