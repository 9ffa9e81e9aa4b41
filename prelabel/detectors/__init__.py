"""Known models, the TF-Hub and SavedModel adapter, masks to RLE."""
