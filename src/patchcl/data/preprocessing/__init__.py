"""From scans on disk to images on the network's grid: fingerprint, plan, transforms, cache."""
