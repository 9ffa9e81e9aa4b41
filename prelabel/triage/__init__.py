"""Which images to review first: lists of images, and how much the review of an image gains."""
