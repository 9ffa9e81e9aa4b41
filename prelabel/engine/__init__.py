"""Running: one shard in plain Python, many on Ray."""
