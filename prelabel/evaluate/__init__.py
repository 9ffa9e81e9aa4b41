"""Finished shards against the truth: COCO's figures, the thresholds that save most work, and what goes wrong."""
