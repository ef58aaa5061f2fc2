"""The demo: generated scans, and the comparison on them."""
