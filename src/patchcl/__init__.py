"""Semi-supervised medical image segmentation with PatchCL."""

__version__ = "0.1.0"
