"""Label maps: the name and Freebase machine id of each class number."""
