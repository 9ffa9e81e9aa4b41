"""Listing images, planning shards, fetching bytes and decoding pixels."""
