"""Which images people look at first: lists of images, and what an annotator gains by looking at one."""
