"""Semi-supervised medical image segmentation with PatchCL."""

from patchcl.core.version import __version__ as __version__
