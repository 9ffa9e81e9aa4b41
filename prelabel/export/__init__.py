"""Finished shards to the formats that annotation tools read."""
