"""The files of a run: their schema, plan, shards, settings, manifest, lock, status and verification."""
