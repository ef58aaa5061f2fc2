"""HTML pages about runs and comparisons."""
