"""What a run leaves on disk: folder, checkpoints, log, provenance."""
