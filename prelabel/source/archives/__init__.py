"""Archives of images: their members as images of a source, listed and read with few requests."""
