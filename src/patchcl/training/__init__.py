"""The loop, and everything around one run."""
