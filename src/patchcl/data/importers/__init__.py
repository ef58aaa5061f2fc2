"""Importers of foreign data sets: one file per layout, each of which registry.LAYOUTS names once."""
