"""Detectors: downloading models, recognizing their conventions, and running them."""
