"""A trained network meets new scans."""
