"""What a run writes and how it is read back: schema, shards, run settings, manifest, verification."""
