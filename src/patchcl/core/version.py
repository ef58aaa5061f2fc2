"""The version of this package: one place that the build, formats, runs and comparisons read."""

__version__ = "0.1.0"
