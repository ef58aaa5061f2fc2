"""Inference: trained runs, sliding windows, predictions in files."""
