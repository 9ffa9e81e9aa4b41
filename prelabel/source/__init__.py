"""Listing images, fetching their bytes, and decoding their pixels."""
