"""DICOM series, their frames, and DICOM-SEG."""
