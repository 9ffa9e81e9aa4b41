"""Convert finished shards to the formats that annotation tools read."""
