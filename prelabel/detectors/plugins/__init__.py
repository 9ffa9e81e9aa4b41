"""Detectors that are Python code: found by name, made by a factory, called with arrays of pixels.

addresses ("blobs.detector:Blobs") -> files (fingerprint) -> factory (a `Detector`) -> adapter (a `FrameDetector`)
"""
