"""PatchCL's contrast: patches, how they are sampled, the memory bank, the loss."""
