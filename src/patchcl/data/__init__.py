"""Everything between the disk and a batch: reading, splitting, planning, preparing, holding and sampling images."""
