"""From prepared images to the batch of a step."""
